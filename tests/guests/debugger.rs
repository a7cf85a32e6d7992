//! A kernel under GDB, by the stub of `--gdb`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use guests::{BOOT, Bus, Image, JOB, Kernel, Machine, POWER_OFF, Running, gdb};

/// Sets the host's name once in a while, and says where the kernel does so.
const SCRIPT: &str = "echo at=0x$(awk '$3 == \"__x64_sys_sethostname\" { print $1 }' /proc/kallsyms)=
    i=0; while [ ! -e /stop ] && [ $i -lt ROUNDS ]; do hostname host$i; i=$((i+1)); sleep 0.05; done; echo rounds=$i=";

fn socket(directory: &Path) -> (PathBuf, String) {
    let socket = directory.join("gdb.sock");
    let option = format!("unix:{}", socket.display());
    (socket, option)
}

fn wait_for(socket: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !socket.exists() {
        assert!(Instant::now() < deadline, "{} does not come", socket.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn lines_with<'a>(text: &'a str, what: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.contains(what)).collect()
}

/// A kernel that sets its name `rounds` times, its address of that, and the debugger's socket.
fn running(directory: &Path, image: &Image, rounds: u32, options: &[&str]) -> (Running, PathBuf, String) {
    let (socket, option) = socket(directory);
    let running = Machine::bodhi(Kernel::Cloud)
        .disk(image.path(), Bus::Auto)
        .append("nokaslr")
        .script(&SCRIPT.replace("ROUNDS", &rounds.to_string()))
        .options(&["--gdb", &format!("{option},nowait")])
        .options(options)
        .start();
    running.expect("at=0x", BOOT);
    let (digits, _) = running.expect_with("=", JOB);
    let address = format!("0x{digits}");
    (running, socket, address)
}

fn breaks_steps_and_goes_on(options: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let image = Image::root();
    let (running, socket, address) = running(directory.path(), &image, 400, options);
    let text = gdb(
        &socket,
        &format!(
            "break *{address}\ncontinue\nprintf \"first=%#lx\\n\", $rip\nstepi\nprintf \"second=%#lx\\n\", $rip
             info threads\nx/1i $rip\nprintf \"stack=%#lx\\n\", *(unsigned long *)$rsp
             printf \"paging=%d\\n\", ($cr0 >> 31) & 1\nprintf \"cr3=%d\\n\", $cr3 != 0
             continue\nprintf \"again=%#lx\\n\", $rip\ndelete
             hbreak *{address}\ncontinue\nprintf \"hard=%#lx\\n\", $rip\ndelete
             stepi\neval \"awatch *(unsigned long *)%#lx\", $rsp - 8\ncontinue\ndelete
             shell (sleep 1; kill -INT $PPID) &
             continue\nprintf \"end=%#lx\\n\", $rip\ndetach"
        ),
    );
    assert_eq!(lines_with(&text, &format!("first={address}")).len(), 1, "{text}");
    assert!(text.contains("second=0x") && !text.contains(&format!("second={address}")), "{text}");
    assert!(text.contains("stack=0xffffffff"), "{text}");
    assert!(text.contains("paging=1") && text.contains("cr3=1"), "{text}");
    assert!(text.contains(&format!("again={address}")), "{text}");
    assert!(text.contains(&format!("hard={address}")), "{text}");
    let watched = "Hardware access (read/write) watchpoint";
    assert_eq!(lines_with(&text, watched).len(), 2, "set and hit: {text}");
    assert!(text.contains("SIGINT") && text.contains("detached"), "{text}");
    let threads = lines_with(&text, "(processor ").len();
    assert_eq!(threads, options.iter().filter(|option| **option == "2").count() + 1, "{text}");

    // A debugger that vanishes leaves no breakpoint.
    let commands = format!("break *{address}\ncontinue\nshell kill -KILL $PPID");
    gdb(&socket, &commands);
    let end = running.wait(JOB);
    end.assert_powered_off();
    assert_eq!(end.value("rounds").trim_end_matches('='), "400", "the guest has gone on");
}

#[test]
fn a_kernel_is_debugged_on_the_translator() {
    breaks_steps_and_goes_on(&["--processor", "translator"]);
}

#[test]
fn a_kernel_with_two_processors_is_debugged_on_the_translator() {
    breaks_steps_and_goes_on(&["--processor", "translator", "--cpus", "2"]);
}

#[test]
fn a_kernel_with_two_processors_is_debugged_on_the_interpreter() {
    breaks_steps_and_goes_on(&["--processor", "interpreter", "--cpus", "2"]);
}

/// In the nested host only: see `nested.rs`. The SVM of QEMU's TCG knows neither debug registers nor the interception of
/// INT3, so that nothing here sets breakpoints; `processor-kvm` has tests of them.
mod on_kvm {
    use super::*;

    #[test]
    fn a_kernel_with_two_processors_is_looked_at_stepped_and_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let image = Image::root();
        let (running, socket, address) =
            running(directory.path(), &image, 400, &["--processor", "kvm", "--cpus", "2"]);
        let text = gdb(
            &socket,
            &format!(
                "printf \"first=%#lx\\n\", $rip\nstepi\nstepi\nstepi\nprintf \"second=%#lx\\n\", $rip
                 info threads\nx/1i {address}\nprintf \"paging=%d\\n\", ($cr0 >> 31) & 1
                 thread 2\nprintf \"cr3=%d\\n\", $cr3 != 0\nprintf \"stack=%#lx\\n\", $rsp
                 shell (sleep 2; kill -INT $PPID) &
                 continue\nprintf \"end=%#lx\\n\", $rip\ndetach"
            ),
        );
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.trim_start().strip_prefix(name));
            line.unwrap_or_else(|| panic!("{name}: {text}")).to_owned()
        };
        assert_ne!(value("first="), value("second="), "{text}");
        assert_eq!(lines_with(&text, "(processor ").len(), 2, "{text}");
        assert!(lines_with(&text, &format!("{address}:")).len() == 1, "{text}");
        assert!(text.contains("paging=1") && text.contains("cr3=1"), "{text}");
        assert!(value("stack=").starts_with("0xff"), "{text}");
        assert!(text.contains("SIGINT") && text.contains("end=0x") && text.contains("detached"), "{text}");
        let end = running.wait(JOB);
        end.assert_powered_off();
        assert_eq!(end.value("rounds").trim_end_matches('='), "400", "the guest has gone on");
    }

    #[test]
    fn control_and_segment_registers_are_set_and_a_bad_value_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, option) = socket(directory.path());
        let running =
            Machine::bodhi(Kernel::Cloud).options(&["--gdb", &option, "--processor", "kvm"]).start();
        wait_for(&socket);
        // An error ends what GDB does.
        let text = gdb(
            &socket,
            "set $cr4 = $cr4 | 4\nprintf \"cr4=%#x\\n\", $cr4 & 4
             set $cr2 = 0x1234\nprintf \"cr2=%#lx\\n\", $cr2
             set $ds = 0\nprintf \"ds=%#x\\n\", $ds\nset $fs_base = 0x5678\nprintf \"fs=%#lx\\n\", $fs_base
             set $cr0 = 0x80000000",
        );
        for expected in ["cr4=0x4", "cr2=0x1234", "ds=0", "fs=0x5678", "Could not write register \"cr0\""] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        running.expect("bodhi: initramfs", BOOT);
    }
}

#[test]
fn the_guest_waits_at_its_first_instruction_and_may_be_killed_there() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, option) = socket(directory.path());
    let running = Machine::bodhi(Kernel::Cloud).options(&["--gdb", &option]).start();
    wait_for(&socket);
    let text = gdb(&socket, "printf \"efer=%#x rip=%#lx\\n\", $efer, $rip\ndisconnect\nshell sleep 0.2");
    assert!(text.contains("efer=0x"), "{text}");
    // It runs when the debugger has gone.
    running.expect("bodhi: initramfs", BOOT);
    gdb(&socket, "kill");
    let end = running.wait(POWER_OFF);
    assert_eq!(end.code, Some(0));
    assert!(end.errors.contains("the machine has been stopped"), "{}", end.errors);
}

#[test]
fn what_is_not_the_protocol_harms_nobody() {
    use std::io::Write;
    let directory = tempfile::tempdir().unwrap();
    let image = Image::root();
    let (running, socket, _) = running(directory.path(), &image, 400, &[]);
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"$vCont;s:0;c:zz#00", &[b'$'; 9000], b"\x03\x03\x03"] {
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        // It may have been closed for what came before.
        let _ = stream.write_all(garbage);
    }
    let text = gdb(&socket, "printf \"cs=%d\\n\", $cs != 0\ndetach");
    assert!(text.contains("cs=1"), "{text}");
    let end = running.wait(JOB);
    end.assert_powered_off();
}
