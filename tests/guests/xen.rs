//! Xen, started by multiboot, with a Debian kernel as its first domain: a paravirtual one, which needs no virtualization of
//! the processor.

use guests::{BOOT, Bus, JOB, Kernel, Machine, POWER_OFF, Program, Running, root_image, xen};

/// Xen takes the first word of each line for the name of the file.
const XEN: &str = "xen console=com1 com1=115200,8n1 loglvl=all noreboot=1";
const FACTS: &str =
    "echo fac''ts: $(cat /sys/hypervisor/type) $(nproc) $(cat /sys/class/scsi_host/host0/proc_name) e''nd";
const DOMAIN: &str = "vmlinuz console=hvc0 panic=-1 ata_piix.prefer_ms_hyperv=0";

fn start(cpus: &str, synthetic: &str) -> Running {
    let (hypervisor, kernel) = (xen(), Kernel::Generic);
    let machine = Machine::bare(Program::Bodhi).disk_with(&root_image(), Bus::Auto, ",snapshot");
    let modules = [format!("{},{DOMAIN}", kernel.image().display()), kernel.initrd().display().to_string()];
    let machine = machine
        .options(&["--kernel", hypervisor.to_str().expect("UTF-8"), "--append", XEN])
        .options(&["--module", &modules[0], "--module", &modules[1]])
        .options(&["--cpus", cpus, "--synthetic", synthetic, "--memory", "1G"]);
    machine.start()
}

#[test]
#[ignore = "two boots of a hypervisor with a guest of its own: make test-all"]
fn xen_starts_by_multiboot_with_a_debian_kernel_up_to_its_shell() {
    for (cpus, synthetic) in [("1", "off"), ("2", "on")] {
        let mut running = start(cpus, synthetic);
        running.expect("Xen version 4.17", BOOT);
        running.expect("*** Building a PV Dom0 ***", BOOT);
        running.expect("bodhi: shell", BOOT);
        running.type_line(FACTS);
        running.expect("facts: ", JOB);
        let facts = running.expect_with(" end", JOB).0;
        assert_eq!(facts, format!("xen {cpus} ata_piix"));
        running.type_line("exit");
        running.wait(POWER_OFF).assert_powered_off();
    }
}
