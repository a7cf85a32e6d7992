//! Integration services: with the drivers of Debian's kernel, and the programs of Debian's `hyperv-daemons` or those of the
//! setup disk.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use guests::{Answer, BOOT, Image, JOB, Kernel, POWER_OFF, Running, insert_setup_disk, is_nested, row};
use serde_json::Value;

/// What `bodhi integration` says of the guest.
pub(crate) fn status(running: &Running) -> Value {
    serde_json::from_str(running.bodhi(&["integration", "--json"]).assert_done()).unwrap()
}

fn service<'a>(status: &'a Value, name: &str) -> &'a Value {
    let services = status["services"].as_array().unwrap();
    services.iter().find(|service| service["service"] == name).unwrap()
}

/// The status as soon as `service` is in `state`.
pub(crate) fn wait_for(running: &Running, name: &str, state: &str) -> Value {
    let end = Instant::now() + JOB;
    loop {
        let status = status(running);
        if service(&status, name)["state"] == state {
            return status;
        }
        assert!(Instant::now() < end, "{name} does not become {state}: {status:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What `ask` gets as soon as the guest's driver knows its program, until when it says that it has failed.
fn once_served(mut ask: impl FnMut() -> Answer) -> Answer {
    let end = Instant::now() + JOB;
    loop {
        let answer = ask();
        if !answer.errors.contains("is not running") {
            return answer;
        }
        assert!(Instant::now() < end, "{answer:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Seconds since 1970 in the guest, and on the host a moment later.
fn times(running: &mut Running) -> (f64, f64) {
    let guest = running.ask("date +%s.%N").parse().unwrap();
    let host = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    (guest, host)
}

#[test]
fn a_guest_s_time_stands_still_while_it_is_paused_and_its_clock_is_right_soon_after() {
    let image = Image::empty(0);
    let running = time_stands_still(Kernel::Cloud, &image, Duration::from_secs(3));
    // A machine that is paused can be reset, and ended.
    running.bodhi(&["pause"]).assert_done();
    assert_eq!(running.control("{\"command\":\"reset\"}"), "\"done\"");
    running.expect("bodhi: shell", BOOT);
    assert!(running.control("{\"command\":\"status\"}").contains("\"paused\":false"));
    running.bodhi(&["pause"]).assert_done();
    assert_eq!(running.control("{\"command\":\"quit\"}"), "\"done\"");
    running.wait(POWER_OFF);
}

#[test]
#[ignore = "a pause of a minute: make test-all"]
fn the_clock_is_right_soon_after_a_pause_of_a_minute() {
    time_stands_still_for_a_minute(Kernel::Cloud);
}

#[test]
#[ignore = "a pause of a minute: make test-all"]
fn the_clock_is_right_soon_after_a_pause_of_a_minute_on_debian_11_s_kernel() {
    time_stands_still_for_a_minute(Kernel::Bullseye);
}

#[test]
#[ignore = "a pause of a minute: make test-all"]
fn the_clock_is_right_soon_after_a_pause_of_a_minute_on_debian_13_s_kernel() {
    time_stands_still_for_a_minute(Kernel::Trixie);
}

fn time_stands_still_for_a_minute(kernel: Kernel) {
    let image = Image::empty(0);
    let mut running = time_stands_still(kernel, &image, Duration::from_secs(60));
    // Nobody else sets the clock.
    assert_eq!(running.ask("ps ax | grep -cE '[c]hronyd|[n]tpd|[t]imesyncd'"), "0");
    running.bodhi(&["shutdown"]).assert_done();
    running.wait(POWER_OFF).assert_powered_off();
}

/// A guest that has been paused, and whose clock is right again.
fn time_stands_still(kernel: Kernel, image: &Image, pause: Duration) -> Running {
    // Asking alone takes up to a quarter of a second in the nested host.
    let near = if is_nested() { 0.3 } else { 0.05 };
    let mut running = Running::shell_of(kernel, image, &["--cpus", "2"], &[]);
    wait_for(&running, "time-sync", "ok");
    let uptime = |running: &mut Running| running.ask("cut -d' ' -f1 /proc/uptime").parse::<f64>().unwrap();
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    assert_eq!(running.bodhi(&["resume"]).refusal(1), "the machine is running already");
    running.ask("(while :; do :; done) & true");
    let (before, started) = (uptime(&mut running), Instant::now());
    running.bodhi(&["pause"]).assert_done();
    let paused = Instant::now();
    assert_eq!(running.bodhi(&["pause"]).refusal(1), "the machine is paused already");
    assert_eq!(running.bodhi(&["shutdown"]).refusal(1), "the machine is paused");
    assert_eq!(service(&status(&running), "time-sync")["state"], "ok");
    let spent = running.processor_time();
    std::thread::sleep(pause);
    // The guest spins, and would take all of it.
    assert!(running.processor_time() - spent < pause / 10);
    let paused = paused.elapsed().as_secs_f64();
    running.bodhi(&["resume"]).assert_done();
    let resumed = Instant::now();
    let passed = uptime(&mut running) - before;
    assert!(passed < started.elapsed().as_secs_f64() - paused + 0.02, "{passed} s have passed");
    // What the guest says is near both what the host says before, and after.
    loop {
        let (earliest, (guest, latest)) = (now(), times(&mut running));
        let right = latest - near <= guest && guest <= earliest + near;
        let after = resumed.elapsed();
        println!(
            "{after:.2?} after the pause: guest {:+.3} s, host 0 to {:.3} s",
            guest - earliest,
            latest - earliest
        );
        if right {
            return running;
        }
        assert!(after < Duration::from_secs(5), "guest {guest}, host {earliest} to {latest}");
    }
}

/// Whose programs the guest has.
#[derive(Clone, Copy)]
enum Programs {
    Debian,
    SetupDisk,
}

impl Programs {
    /// A guest in its shell, which has the programs.
    fn shell(self, kernel: Kernel, image: &Image) -> Running {
        self.shell_with(kernel, image, &[])
    }

    /// The same, of a machine with further options.
    fn shell_with(self, kernel: Kernel, image: &Image, options: &[&str]) -> Running {
        let options = [&["--cdrom", "empty"], options].concat();
        let mut running = Running::shell_of(kernel, image, &options, &[]);
        if let Self::SetupDisk = self {
            insert_setup_disk(&running).assert_done();
            let take = "until mount -r /dev/sr0 /mnt 2>/dev/null; do sleep 0.1; done; cd /mnt; \
                        sha256sum --quiet -c SHA256SUMS && cp bodhi-integration /usr/local/bin; cd; umount /mnt; \
                        bodhi-integration --version";
            assert!(running.ask(take).starts_with("bodhi-integration "));
            running.bodhi(&["setup-disk", "eject"]).assert_done();
        }
        running
    }

    /// Starts the program of a service.
    fn start(self, running: &mut Running, service: &str) {
        let command = match (self, service) {
            (Self::SetupDisk, service) => format!("(bodhi-integration {service} > /run/{service} 2>&1 &)"),
            (Self::Debian, "key-value") => "/usr/sbin/hv_kvp_daemon".to_owned(),
            (Self::Debian, "backup") => "/usr/sbin/hv_vss_daemon".to_owned(),
            (Self::Debian, _) => "/usr/sbin/hv_fcopy_daemon".to_owned(),
        };
        running.ask(&command);
    }

    /// Words by which `pkill -f` finds what serves backups.
    fn backup(self) -> &'static str {
        match self {
            Self::Debian => "hv_vss_daemon",
            Self::SetupDisk => "'bodhi-integration backup'",
        }
    }
}

#[test]
fn the_guest_s_services_answer_and_carry_out_what_the_host_asks() {
    services_answer(Programs::Debian, Kernel::Cloud);
}

#[test]
fn the_setup_disk_s_services_answer_and_carry_out_what_the_host_asks() {
    services_answer(Programs::SetupDisk, Kernel::Cloud);
}

#[test]
#[ignore = "the same on a further kernel: make test-all"]
fn the_setup_disk_s_services_answer_on_the_newest_kernel() {
    services_answer(Programs::SetupDisk, Kernel::Backports);
}

#[test]
#[ignore = "the same on a further kernel: make test-all"]
fn the_setup_disk_s_services_answer_on_debian_11_s_kernel() {
    services_answer(Programs::SetupDisk, Kernel::Bullseye);
}

#[test]
#[ignore = "the same on a further kernel: make test-all"]
fn the_setup_disk_s_services_answer_on_debian_13_s_kernel() {
    services_answer(Programs::SetupDisk, Kernel::Trixie);
}

fn services_answer(programs: Programs, kernel: Kernel) {
    let image = Image::empty(0);
    let mut running = programs.shell(kernel, &image);

    // Without its program the guest does not say which key-value protocol it speaks.
    for (name, version) in [("shutdown", "3.2"), ("time-sync", "4.0"), ("heartbeat", "3.0")] {
        let status = wait_for(&running, name, "ok");
        assert_eq!(service(&status, name)["version"], version);
    }
    let partial = status(&running);
    let devices = partial["devices"].as_array().unwrap();
    let bound: Vec<_> = devices.iter().map(|row| (row["device"].as_str(), row["driver"].as_bool())).collect();
    assert_eq!(bound, [(Some("storvsc-ide0"), Some(true)), (Some("scsi0"), Some(true))]);
    let text = running.bodhi(&["integration"]).assert_done().to_owned();
    assert!(text.contains("\nstorvsc-ide0  yes           driver bound\n"), "{text}");
    assert_eq!((&partial["components"], &partial["key-values"]), (&"partial".into(), &Value::Null));
    let early = running.bodhi(&["integration", "--set", "a=b"]).refusal(1).to_owned();
    assert!(early.contains("\"key-value\" is negotiating"), "{early}");

    programs.start(&mut running, "key-value");
    if matches!(kernel, Kernel::Backports | Kernel::Trixie) {
        // Without its program that kernel has nobody who opens the channel.
        programs.start(&mut running, "file-copy");
        wait_for(&running, "file-copy", "ok");
    }
    let full = wait_for(&running, "key-value", "ok");
    assert_eq!(full["components"], "full");
    assert_eq!(full["key-values"]["facts"]["OSName"], "Debian GNU/Linux");

    // From the host to the guest, and back.
    running.bodhi(&["integration", "--set", "greeting=good day"]).assert_done();
    // A record has 512 bytes of key and 2048 of value, of which what is behind the first zero is anything.
    let pool = "for from in 1 513; do tail -c +$from /var/lib/hyperv/.kvp_pool_0 | tr '\\0' '\\n' | head -n 1; done | xargs";
    assert_eq!(running.ask(pool), "greeting good day");
    let write =
        "{ printf answer | dd bs=512 conv=sync; printf 'and to you' | dd bs=2048 conv=sync; } 2>/dev/null";
    running.ask(&format!("{write} > /var/lib/hyperv/.kvp_pool_1"));
    let pairs = &status(&running)["key-values"];
    assert_eq!(pairs["guest"], serde_json::json!({ "answer": "and to you" }));
    assert_eq!(pairs["host"], serde_json::json!({ "greeting": "good day" }));
    running.bodhi(&["integration", "--delete", "greeting"]).assert_done();
    assert_eq!(running.ask(pool), "");
    let missing = running.bodhi(&["integration", "--delete", "greeting"]).refusal(1).to_owned();
    assert!(missing.contains("the guest refuses"), "{missing}");
    let long =
        running.bodhi(&["integration", "--set", &format!("{}=", "k".repeat(255))]).refusal(2).to_owned();
    assert!(long.contains("too long"), "{long}");

    // A service goes and comes; a clock that is wrong is set when the host tells the time again.
    running.ask("date -s 2001-02-03 >/dev/null");
    running.bodhi(&["integration", "--disable", "time-sync"]).assert_done();
    assert_eq!(service(&status(&running), "time-sync")["state"], "disabled");
    let again = running.bodhi(&["integration", "--disable", "time-sync"]).refusal(1).to_owned();
    assert!(again.contains("disabled already"), "{again}");
    running.ask("until [ ! -e /sys/bus/vmbus/drivers/hv_utils/2497f4de-* ]; do sleep 0.1; done");
    running.bodhi(&["integration", "--enable", "time-sync"]).assert_done();
    wait_for(&running, "time-sync", "ok");
    running.ask("until [ $(date +%Y) != 2001 ]; do sleep 0.1; done");
    let (guest, host) = times(&mut running);
    assert!(guest <= host && host - guest < 5.0, "guest {guest}, host {host}");

    // A restart, after which what was disabled still is; and the end.
    running.bodhi(&["integration", "--disable", "heartbeat"]).assert_done();
    running.bodhi(&["shutdown", "--restart"]).assert_done();
    running.expect("bodhi: shell", BOOT);
    let restarted = wait_for(&running, "shutdown", "ok");
    assert_eq!(service(&restarted, "heartbeat")["state"], "disabled");
    running.bodhi(&["shutdown"]).assert_done();
    running.wait(POWER_OFF).assert_powered_off();
}

/// A program of the guest's owner, which gets a file of settings.
const SET_ADDRESSES: &str = "#!/bin/sh -e\n. $1; ip addr flush dev $DEVICE; ip link set $DEVICE up\n\
    [ $BOOTPROTO = none ] || exit 7\nip addr add $IPADDR0/$NETMASK0 dev $DEVICE\n\
    ip -6 addr add $IPV6ADDR/$IPV6NETMASK dev $DEVICE nodad\n\
    ip route add default via $GATEWAY\necho nameserver $DNS1 > /etc/resolv.conf\n";

#[test]
fn addresses_are_told_and_set_by_the_setup_disk_s_program() {
    addresses_are_told_and_set(Programs::SetupDisk, "/etc/bodhi/set-addresses");
}

#[test]
#[ignore = "the same by Debian's program: make test-all"]
fn addresses_are_told_and_set_by_debian_s_program() {
    addresses_are_told_and_set(Programs::Debian, "/usr/libexec/hypervkvpd/hv_set_ifconfig");
}

fn addresses_are_told_and_set(programs: Programs, program: &str) {
    let image = Image::empty(0);
    let mut running = programs.shell_with(Kernel::Cloud, &image, &["--net", "nat", "--net", "isolated"]);
    let refused = running.bodhi(&["ip"]).refusal(1).to_owned();
    assert!(refused.contains("\"key-value\" is negotiating"), "{refused}");
    let script = SET_ADDRESSES.replace('\n', "\\n").replace('$', "\\044");
    running.ask(&format!("mkdir -p /etc/bodhi; printf '{script}' > {program}; chmod +x {program}"));
    programs.start(&mut running, "key-value");
    wait_for(&running, "key-value", "ok");

    let set = |running: &Running, words: &[&str]| running.bodhi(&[&["ip"], words].concat());
    let several = set(&running, &["--dhcp"]).refusal(2).to_owned();
    assert_eq!(several, "which network adapter: network0, network1?");
    let missing = set(&running, &["--adapter", "network2", "--dhcp"]).refusal(2).to_owned();
    assert_eq!(missing, "network2: there is network0, network1");
    let wrong = set(&running, &["--adapter", "network0", "--address", "10.0.2.300/24"]).refusal(2).to_owned();
    assert!(wrong.contains("10.0.2.300 is no IP address"), "{wrong}");
    let failed = set(&running, &["--adapter", "network0", "--dhcp"]).refusal(1).to_owned();
    assert!(failed.starts_with("the guest refuses: status 0x80004005"), "{failed}");
    let words = "--adapter network0 --address 10.0.2.50/24 --address fd00::50/64 --gateway 10.0.2.2 --name-server 10.0.2.3";
    set(&running, &words.split(' ').collect::<Vec<_>>()).assert_done();

    assert_eq!(running.ask("ping -q -c 2 -i 0.2 10.0.2.2 | grep -c ' 0% packet loss'"), "1");
    let told: Value = serde_json::from_str(running.bodhi(&["ip", "--json"]).assert_done()).unwrap();
    let adapter = &told[0];
    assert_eq!((&adapter["device"], &adapter["dhcp"]), (&"network0".into(), &false.into()), "{told:#}");
    let addresses: Vec<_> =
        adapter["addresses"].as_array().unwrap().iter().map(|ip| ip.as_str().unwrap()).collect();
    assert!(addresses.contains(&"10.0.2.50/24") && addresses.contains(&"fd00::50/64"), "{addresses:?}");
    assert_eq!(adapter["gateways"][0], "10.0.2.2");
    let text = running.bodhi(&["integration"]).assert_done().to_owned();
    assert!(text.contains("10.0.2.50/24"), "{text}");
    running.type_line("exit");
    running.wait(POWER_OFF).assert_powered_off();
}

#[test]
fn a_guest_without_the_services_is_told_apart() {
    let image = Image::empty(0);
    let mut running = Running::shell(&image, &["--integration", "heartbeat"], &[]);
    let status = wait_for(&running, "heartbeat", "ok");
    assert_eq!(service(&status, "shutdown")["state"], "disabled");
    assert_eq!(status["components"], "full");
    let refused = running.bodhi(&["shutdown"]).refusal(1).to_owned();
    assert!(refused.contains("\"shutdown\" is no contact"), "{refused}");
    assert_eq!(
        insert_setup_disk(&running).refusal(1),
        "the machine has no optical drive: --cdrom gives it one"
    );
    running.type_line("exit");
    running.wait(POWER_OFF).assert_powered_off();
}

#[test]
fn files_come_into_the_guest_and_its_disk_is_copied_while_it_writes() {
    files_are_copied(Programs::Debian, Kernel::Cloud);
}

#[test]
fn files_come_and_the_disk_is_copied_by_the_setup_disk_s_programs() {
    files_are_copied(Programs::SetupDisk, Kernel::Cloud);
}

#[test]
#[ignore = "the same on a further kernel: make test-all"]
fn files_come_by_the_channel_itself_on_the_newest_kernel() {
    // That kernel has no driver for file copy.
    files_are_copied(Programs::SetupDisk, Kernel::Backports);
}

#[test]
#[ignore = "the same on a further kernel: make test-all"]
fn files_come_and_the_disk_is_copied_on_debian_11_s_kernel() {
    files_are_copied(Programs::SetupDisk, Kernel::Bullseye);
}

#[test]
#[ignore = "the same on a further kernel: make test-all"]
fn files_come_and_the_disk_is_copied_on_debian_13_s_kernel() {
    files_are_copied(Programs::SetupDisk, Kernel::Trixie);
}

fn files_are_copied(programs: Programs, kernel: Kernel) {
    let image = Image::empty(0);
    let mut running = programs.shell(kernel, &image);
    programs.start(&mut running, "backup");
    programs.start(&mut running, "file-copy");
    wait_for(&running, "file-copy", "ok");
    wait_for(&running, "backup", "ok");

    // Not a whole number of fragments.
    let source = image.folder().join("source");
    let contents: Vec<u8> = (0..100_001_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    fs::write(&source, &contents).unwrap();
    let copy = |running: &Running, from: &str, options: &[&str]| {
        running.bodhi(&[&["copy", from, "/srv/new/folder/file"], options].concat())
    };
    let from = source.to_str().unwrap();
    once_served(|| copy(&running, from, &[])).assert_done();
    let sum = Command::new("md5sum").arg(&source).output().unwrap();
    let sum = String::from_utf8_lossy(&sum.stdout)[..32].to_owned();
    assert_eq!(running.ask("md5sum < /srv/new/folder/file | cut -c1-32"), sum);
    let again = copy(&running, from, &[]).refusal(1).to_owned();
    assert_eq!(again, "the guest has such a file already");
    fs::write(&source, "short").unwrap();
    copy(&running, from, &["--overwrite"]).assert_done();
    assert_eq!(running.ask("cat /srv/new/folder/file; echo"), "short");
    let missing = image.folder().join("nothing");
    let missing = copy(&running, missing.to_str().unwrap(), &[]).refusal(2).to_owned();
    assert!(missing.ends_with("nothing: No such file or directory (os error 2)"), "{missing}");
    let relative = running.bodhi(&["copy", from, "file"]).refusal(2).to_owned();
    assert_eq!(relative, "file: is no absolute path of a file");
    // What does not fit leaves nothing. Ten fragments do: Debian's program takes one that fits in part for another failure.
    running.ask("mkdir /srv/small; mount -t tmpfs -o size=60k none /srv/small");
    fs::write(&source, &contents).unwrap();
    let full = running.bodhi(&["copy", from, "/srv/small/file"]).refusal(1).to_owned();
    assert_eq!(full, "the guest's disk is full");
    assert_eq!(running.ask("ls -A /srv/small; umount /srv/small"), "");

    // Each file is followed by its sum, for as long as the guest runs.
    let write = "mkdir /srv/w; cd /srv/w; i=0; while sleep 0.01; do i=$((i + 1)); \
                 head -c 30000 /dev/urandom > f$i; md5sum f$i > s$i; done";
    running.ask(&format!("({write}) > /dev/null 2>&1 & true"));
    running.ask("until [ $(ls /srv/w 2>/dev/null | wc -l) -gt 40 ]; do sleep 0.1; done");
    let target = image.folder().join("copy.img");
    let target = target.to_str().unwrap();
    once_served(|| running.bodhi(&["image", "backup", target])).assert_done();
    let exists = running.bodhi(&["image", "backup", target]).refusal(2).to_owned();
    assert!(exists.starts_with(&format!("{target}: File exists")), "{exists}");
    running.ask("n=$(ls /srv/w | wc -l); until [ $(ls /srv/w | wc -l) -gt $n ]; do sleep 0.1; done");

    // The copy needs no journal to be mounted, and all that was written before is in it.
    running.bodhi(&["disk", "attach", &format!("{target},readonly")]).assert_done();
    running.ask("until mount -t ext4 -o ro,noload /dev/sdb /mnt 2>/dev/null; do sleep 0.1; done");
    let features = running.ask("dumpe2fs -h /dev/sdb 2>/dev/null | grep -c needs_recovery");
    assert_eq!(features, "0");
    let check = "cd /mnt/srv/w; for s in $(find . -name 's*' -size +0); do md5sum -c $s; done | sort | uniq -c | \
                 awk '{ n += $1; bad += !/OK$/ } END { print bad + 0, (n > 10) }'";
    assert_eq!(running.ask(check), "0 1");
    let alone = running.ask(&format!("cd /; pkill -f {}; sleep 0.2; echo", programs.backup()));
    assert_eq!(alone, "");
    let refused = running.bodhi(&["image", "backup", &format!("{target}.2")]).refusal(1).to_owned();
    assert!(refused.starts_with("the guest refuses"), "{refused}");
    assert!(!image.folder().join("copy.img.2").exists());
    running.type_line("exit");
    running.wait(POWER_OFF).assert_powered_off();
}

/// What fio writes and looks for: blocks that hold their places in the file.
const BLOCKS: &str =
    "--name=load --filename=/srv/fio/FILE --size=48M --verify=pattern --verify_pattern=%o --bs=4k";

#[test]
#[ignore = "a minute of a guest that writes as fast as it can: make test-all"]
fn a_copy_of_a_guest_s_disk_under_load_is_whole() {
    copy_under_load(Programs::SetupDisk);
}

#[test]
#[ignore = "the same by Debian's program: make test-all"]
fn a_copy_of_a_guest_s_disk_under_load_by_debian_s_program_is_whole() {
    copy_under_load(Programs::Debian);
}

fn copy_under_load(programs: Programs) {
    let image = Image::empty(0);
    let mut running = programs.shell_with(Kernel::Cloud, &image, &["--cpus", "2"]);
    programs.start(&mut running, "backup");
    wait_for(&running, "backup", "ok");
    let fio = |file: &str, words: &str| format!("fio {} {words}", BLOCKS.replace("FILE", file));
    running.ask("mkdir /srv/fio /srv/w");
    // The files are full of such blocks before they are written again and again, past the cache and through it.
    for (file, how) in [("direct", "--direct=1 --ioengine=libaio --iodepth=16"), ("cached", "--fsync=100")] {
        running.ask(&fio(file, "--rw=write --do_verify=0 --end_fsync=1 > /dev/null"));
        let load = "--rw=randwrite --norandommap --time_based --runtime=1000 --do_verify=0";
        running.ask(&format!("({} > /run/{file} 2>&1 &)", fio(file, &format!("{load} {how}"))));
    }
    // Whatever has a sum is older than the sum.
    let write = "cd /srv/w; i=0; while sleep 0.1; do i=$((i + 1)); head -c 30000 /dev/urandom > f$i; md5sum f$i > s$i; done";
    running.ask(&format!("({write}) > /dev/null 2>&1 & true"));
    running.ask("until [ $(ls /srv/w | wc -l) -gt 40 ]; do sleep 0.1; done");
    let written = |running: &Running| row(&running.devices(), "storvsc-ide0")["bytes_out"].as_u64().unwrap();
    let (before, start) = (written(&running), Instant::now());
    std::thread::sleep(Duration::from_secs(5));
    let rate = (written(&running) - before) as f64 / start.elapsed().as_secs_f64() / 1e6;

    let target = image.folder().join("copy.img");
    let target = target.to_str().unwrap();
    let start = Instant::now();
    once_served(|| running.bodhi(&["image", "backup", target])).assert_done();
    println!("{rate:.1} MB/s of writes; the copy took {:.2?}", start.elapsed());
    let before = written(&running);
    wait_until("the guest writes on", || written(&running) > before + (1 << 20));
    running.ask("pkill fio; pkill -f 'sleep 0.1'; echo");

    running.bodhi(&["disk", "attach", &format!("{target},readonly")]).assert_done();
    running.ask("until [ -b /dev/sdb ]; do sleep 0.1; done");
    assert_eq!(running.ask("dumpe2fs -h /dev/sdb 2>/dev/null | grep -c needs_recovery"), "0");
    assert_eq!(
        running.ask("e2fsck -fn /dev/sdb > /run/e2fsck 2>&1; echo $?"),
        "0",
        "{}",
        running.ask("cat /run/e2fsck")
    );
    running.ask("mount -t ext4 -o ro,noload /dev/sdb /mnt");
    for file in ["direct", "cached"] {
        let check = fio(file, "--rw=read --verify_only --readonly").replace("=/srv", "=/mnt/srv");
        assert_eq!(
            running.ask(&format!("{check} > /run/check 2>&1; echo $?")),
            "0",
            "{}",
            running.ask("cat /run/check")
        );
    }
    let check = "cd /mnt/srv/w; for s in $(find . -name 's*' -size +0); do md5sum -c $s; done | sort | uniq -c | \
                 awk '{ n += $1; bad += !/OK$/ } END { print bad + 0, (n > 10) }'";
    assert_eq!(running.ask(check), "0 1");
    running.bodhi(&["shutdown"]).assert_done();
    running.wait(POWER_OFF).assert_powered_off();
}

/// Bytes of the machine that are in the host's memory.
fn resident(running: &Running) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", running.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + JOB;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
#[ignore = "half a minute of a guest that reports once a second: make test-all"]
fn memory_that_the_guest_does_not_need_is_the_host_s_until_it_does() {
    const MIB: u64 = 1 << 20;
    let image = Image::empty(0);
    // By itself Linux says nothing before it has run for 45 seconds.
    let append = ["hv_balloon.pressure_report_delay=0"];
    let mut running = Running::shell(&image, &["--memory", "2G,min=512M"], &append);
    // With what the guest needs itself, 300 MiB.
    let keep = "head -c 200M /dev/urandom > /dev/shm/keep; md5sum < /dev/shm/keep";
    let sum = running.ask(keep);
    // Half a second each, as the guest reports once a second.
    let fill = "for i in $(seq 9); do head -c 80M /dev/zero > /dev/shm/f$i; sleep 0.5; done; \
                for i in $(seq 8); do head -c 100M /dev/zero > /tmp/f$i; sleep 0.5; done; echo full";
    assert_eq!(running.ask(fill), "full");
    let full = resident(&running);
    running.ask("rm /dev/shm/f* /tmp/f*");
    let start = Instant::now();
    wait_until("the host gets 1 GiB back", || resident(&running) + 1024 * MIB < full);
    let taken = start.elapsed();
    println!("{taken:.1?} from {} MiB to {} MiB", full / MIB, resident(&running) / MIB);
    assert!(taken < Duration::from_secs(30), "{taken:.1?} for 1 GiB");
    let state = row(&running.devices(), "memory")["state"].as_str().unwrap().to_owned();
    assert!(state.starts_with("driver bound; ") && state.ends_with(" of 2048 MiB with the guest"), "{state}");
    // What the guest has kept is as it was, also when it needs more again.
    assert_eq!(running.ask("md5sum < /dev/shm/keep"), sum);
    assert_eq!(running.ask(fill), "full");
    assert_eq!(running.ask("md5sum < /dev/shm/keep"), sum);
    running.bodhi(&["shutdown"]).assert_done();
    running.wait(POWER_OFF).assert_powered_off();
}

/// MiB of RAM that the guest's kernel has.
fn total(running: &mut Running) -> u64 {
    running.ask("awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo").parse().unwrap()
}

#[test]
#[ignore = "a minute of a guest that reports once a second: make test-all"]
fn a_guest_that_needs_more_than_it_started_with_gets_it_and_gives_it_back() {
    memory_is_added(Kernel::Cloud);
}

#[test]
#[ignore = "the same on a further kernel: make test-all"]
fn memory_is_added_to_guests_with_debian_11_s_kernel() {
    memory_is_added(Kernel::Bullseye);
}

#[test]
#[ignore = "the same on a further kernel: make test-all"]
fn memory_is_added_to_guests_with_debian_13_s_kernel() {
    memory_is_added(Kernel::Trixie);
}

fn memory_is_added(kernel: Kernel) {
    let image = Image::empty(0);
    let append = ["hv_balloon.pressure_report_delay=0", "memhp_default_state=online"];
    let mut running = Running::shell_of(kernel, &image, &["--memory", "512M,max=2G"], &append);
    let before = total(&mut running);
    assert!((400..=512).contains(&before), "{before}");
    // No faster than a guest can tell.
    let fill = "mount -t tmpfs -o size=3G none /mnt; for i in $(seq 40); do head -c 20M /dev/urandom > /mnt/f$i; sleep 0.7; \
                done; md5sum /mnt/f* | md5sum";
    let sum = running.ask(fill);
    let grown = total(&mut running);
    assert!(grown > before + 400, "{before} MiB have become {grown}");
    let full = resident(&running);
    assert_eq!(running.ask("md5sum /mnt/f* | md5sum"), sum);
    // What is below 4 GiB is reached by every device.
    assert_eq!(running.ask("dmesg | grep -c 'software IO TLB: mapped'"), "0");
    running.ask("rm /mnt/f*");
    wait_until("the host gets 512 MiB back", || resident(&running) + (512 << 20) < full);
    let state = row(&running.devices(), "memory")["state"].as_str().unwrap().to_owned();
    assert!(state.starts_with("driver bound; ") && state.ends_with(" of 2048 MiB with the guest"), "{state}");
    assert_eq!(running.ask(fill), running.ask("md5sum /mnt/f* | md5sum"));
    // A reset has what there was at the start.
    running.bodhi(&["shutdown", "--restart"]).assert_done();
    running.expect("bodhi: shell", BOOT);
    assert_eq!(total(&mut running), before);
    running.bodhi(&["shutdown"]).assert_done();
    running.wait(POWER_OFF).assert_powered_off();
}
