//! Firmware, boot loaders and programs that write to the screen and read the keyboard.

use std::path::Path;
use std::time::Duration;

use guests::{
    BOOT, Bus, Content, Kernel, Machine, POWER_OFF, Running, encode, installed_image, medium, processor,
    root_image, row, serve,
};
use tempfile::TempDir;

/// Processor time from power-on to a boot loader's menu.
const TO_THE_LOADER: Duration = Duration::from_secs(3);

/// How long anything may take to be on the screen, beside another guest.
const SHOWN: Duration = Duration::from_secs(60);

/// A machine with a screen, and its control socket in a folder of its own.
struct Booted {
    running: Running,
    directory: TempDir,
}

fn boot(options: &[&str]) -> Booted {
    let directory = TempDir::new().expect("a folder");
    let running = Machine::firmware(directory.path().join("api")).options(options).start();
    running.expect_socket(&directory.path().join("api"));
    Booted { running, directory }
}

fn from_disc(name: &str, options: &[&str]) -> Booted {
    boot(&[&["--cdrom", path(&medium(name))], options].concat())
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Starts entry `index` of the menu of the ISOLINUX disc.
fn from_menu(index: usize, options: &[&str]) -> Booted {
    let booted = from_disc("isolinux.iso", options);
    booted.running.expect_screen("Hardware report", SHOWN);
    booted.running.press(&vec!["down"; index]);
    booted.running.press(&["enter"]);
    booted
}

#[test]
fn grub_comes_from_a_disc_and_does_what_is_typed() {
    let Booted { running, directory } = from_disc("grub.iso", &["--boot", "disk,cdrom"]);
    running.expect_screen("Memtest86+", SHOWN);
    // In the nested host, time says nothing.
    if processor().is_none_or(|processor| processor != "kvm") {
        let taken = running.processor_time();
        assert!(taken < TO_THE_LOADER, "{taken:?} from power-on to GRUB's menu");
    }
    running.press(&["c"]);
    running.expect_screen("grub>", SHOWN);
    running.type_text("set a=Typed; echo \"<$a>\"\n");
    running.expect_screen("\n<Typed>", SHOWN);
    let picture = directory.path().join("screen.png");
    running.bodhi(&["screenshot", path(&picture)]).assert_done();
    assert!(std::fs::read(&picture).expect("a picture").starts_with(b"\x89PNG"));
    // A restart ends where the first start did.
    running.press(&["ctrl-alt-del"]);
    running.expect_screen("Memtest86+", SHOWN);
}

#[test]
fn without_anything_bootable_the_firmware_says_so_and_the_machine_obeys() {
    let image = TempDir::new().expect("a folder");
    let disk = image.path().join("empty.img");
    std::fs::File::create(&disk).and_then(|file| file.set_len(1 << 20)).expect("a disk");
    let Booted { running, directory: _directory } = boot(&["--firmware", "bios", "--disk", path(&disk)]);
    running.expect_screen("No bootable device", SHOWN);
    assert_eq!(row(&running.devices(), "vga")["state"], "text, 80×25");
}

#[test]
fn ipxe_boots_a_kernel_over_the_legacy_adapter() {
    // The kernel's own driver fetches what it then says.
    let port = serve(|port| {
        let from = format!("http://10.0.2.2:{port}");
        let fetch = format!(
            "ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; curl -s --retry 5 --retry-connrefused {from}/word"
        );
        let append = format!("console=ttyS0 panic=-1 loglevel=1 {}", encode(&fetch));
        let script = format!("#!ipxe\nkernel {from}/vmlinuz {append}\ninitrd {from}/initrd\nboot\n");
        vec![
            ("boot.ipxe", Content::Text(script)),
            ("word", Content::Text("fetched by tulip".to_owned())),
            ("vmlinuz", Content::File(Kernel::Generic.image())),
            ("initrd", Content::File(Kernel::Generic.initrd())),
        ]
    });
    let directory = TempDir::new().expect("a folder");
    let disc = medium("ipxe.iso");
    let options = ["--cdrom", path(&disc), "--boot", "cdrom", "--net", "nat", "--nic", "legacy"];
    let machine = Machine::firmware(directory.path().join("api")).options(&options);
    let running = machine.disk_with(&root_image(), Bus::Auto, ",snapshot").start();
    running.expect_socket(&directory.path().join("api"));
    running.expect_screen("iPXE initialising devices", SHOWN);
    running.press(&["ctrl-b"]);
    running.expect_screen("iPXE>", SHOWN);
    running.type_text(&format!("dhcp && chain http://10.0.2.2:{port}/boot.ipxe\n"));
    running.expect("fetched by tulip", BOOT);
    running.wait(POWER_OFF).assert_powered_off();
}

#[test]
#[ignore = "a hardware report: make test-all"]
fn the_hardware_detection_tool_shows_the_machine() {
    let Booted { running, directory: _directory } = from_menu(0, &[]);
    running.expect_screen("Main Menu", SHOWN);
    // The BIOS's page, from the SMBIOS tables, and back.
    running.press(&["down", "down", "down", "enter"]);
    running.expect_screen("Vendor    : bodhi", SHOWN);
    running.press(&["left", "up", "up", "up", "enter"]);
    // It has no list of names, and says so in the lines above the devices.
    running.expect_screen("unknown|unknown", SHOWN);
    running.press(&["down", "down", "down", "down", "enter"]);
    running.expect_screen("PCI ID  : 8086:", SHOWN);
}

#[test]
#[ignore = "a pass of a memory test takes minutes: make test-all"]
fn memtest_finds_no_error_in_a_whole_pass() {
    let Booted { running, directory: _directory } = from_menu(1, &["--memory", "32M"]);
    running.expect_screen("<Enter> to start testing", SHOWN);
    running.press(&["enter"]);
    let screen = running.expect_screen("Pass:  1 ", Duration::from_secs(1200));
    assert!(screen.contains("Errors: 0"), "{screen}");
}

#[test]
#[ignore = "two boots of a multiboot kernel: make test-all"]
fn gnu_mach_starts_by_multiboot_with_and_without_a_loader() {
    const LAST_WORDS: &str = "No bootstrap code loaded with the kernel";
    from_menu(2, &[]).running.expect_broken_on_screen(LAST_WORDS, SHOWN);

    let (kernel, module) = (medium("gnumach.gz"), medium("grub.iso"));
    let module = format!("{},first module", module.display());
    let alone = boot(&["--kernel", path(&kernel), "--append", "-s", "--module", &module]);
    let screen = alone.running.expect_screen("1 multiboot modules", SHOWN);
    assert!(screen.contains("module 0: first module"), "{screen}");
}

#[test]
#[ignore = "an installer that is loaded from a disc: make test-all"]
fn the_debian_installer_comes_to_its_first_dialog_and_takes_keys() {
    let Booted { running, directory: _directory } = from_disc("installer.iso", &["--memory", "1G"]);
    let screen = running.expect_screen("Choose the language", BOOT);
    assert!(screen.contains("English"), "{screen}");
    running.press(&["enter"]);
    running.expect_screen("Select your location", SHOWN);
}

#[test]
#[ignore = "an installed system, which takes minutes to make: make test-all"]
fn uefi_firmware_comes_to_the_loader_of_a_disk() {
    let directory = TempDir::new().expect("a folder");
    let machine = Machine::firmware(directory.path().join("api"))
        .disk_with(&installed_image(), Bus::Auto, ",snapshot")
        .options(&["--firmware", "uefi", "--memory", "512M"]);
    let running = machine.start();
    running.expect("GNU GRUB", BOOT);
    let picture = directory.path().join("screen.png");
    running.bodhi(&["screenshot", path(&picture)]).assert_done();
    assert!(std::fs::read(&picture).expect("a picture").starts_with(b"\x89PNG"));
}
