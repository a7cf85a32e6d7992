//! Networks: with the driver of Debian's kernel.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread::{self, JoinHandle};

use guests::{Content, Image, Interface, Kernel, POWER_OFF, Running, row, serve};

/// Two adapters of one guest, the second in a network namespace of its own, so that what they say goes over the network.
const TWO: &str = "ip link set eth0 up; ip addr add 10.1.0.1/24 dev eth0; ip -6 addr add fd01::1/64 dev eth0 nodad; \
                   unshare -n sleep 1000 & other=$!; \
                   until [ $(readlink /proc/$other/ns/net) != $(readlink /proc/$$/ns/net) ]; do sleep 0.1; done; \
                   ip link set eth1 netns $other; \
                   in_other() { nsenter -n -t $other \"$@\"; }; \
                   in_other ip addr add 10.1.0.2/24 dev eth1; in_other ip -6 addr add fd01::2/64 dev eth1 nodad; \
                   in_other ip link set eth1 up";

/// Says back at a port of `address` what one connection says; how many bytes that is.
fn echo(address: &str) -> (u16, JoinHandle<u64>) {
    let listener = TcpListener::bind(address).unwrap();
    let port = listener.local_addr().unwrap().port();
    let echo = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let copied = io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        copied
    });
    (port, echo)
}

#[test]
fn two_adapters_reach_each_other_by_every_kind_of_packet() {
    let image = Image::empty(0);
    let nets = ["--net", "isolated", "--net", "isolated,mac=00:15:5d:01:02:03"];
    let mut running = Running::shell(&image, &nets, &[]);
    let state =
        |running: &Running, name: &str| row(&running.devices(), name)["state"].as_str().unwrap().to_owned();
    assert_eq!(state(&running, "network1"), "driver bound, interface down; 00:15:5d:01:02:03");
    assert_eq!(running.ask("cat /sys/class/net/eth1/address"), "00:15:5d:01:02:03");
    running.ask(TWO);
    assert_eq!(running.ask("ping -q -c 3 -i 0.2 10.1.0.2 | grep -c ' 0% packet loss'"), "1");
    assert_eq!(running.ask("ping -q -c 3 -i 0.2 -s 8000 fd01::2 | grep -c ' 0% packet loss'"), "1");
    assert_eq!(state(&running, "network0").split(';').next(), Some("driver bound"));
    // Segments are cut for the receiver, whose checksums are those of the cut ones.
    let offloads =
        "ethtool -k eth0 | grep -cE '(tcp-segmentation-offload|tx-checksum-ipv4|tx-checksum-ipv6): on'";
    assert_eq!(running.ask(offloads), "3");
    for address in ["10.1.0.2", "fd01::2"] {
        let copy = format!(
            "head -c 30M /dev/urandom > /tmp/sent; in_other busybox nc -l -p 99 > /tmp/got & nc=$!; until in_other busybox netstat -ltn | grep -q :99; do sleep 0.1; done; \
             busybox nc {address} 99 < /tmp/sent; wait $nc; md5sum < /tmp/sent; md5sum < /tmp/got"
        );
        let sums = running.ask(&copy);
        let sums: Vec<_> = sums.split_whitespace().filter(|word| word.len() == 32).collect();
        assert_eq!((sums.len(), sums[0] == sums[1]), (2, true), "{sums:?}");
    }
    // Another address, and frames of 9000 bytes.
    running.ask("ip link set eth0 down; ip link set eth0 address 00:15:5d:aa:bb:cc mtu 9000 up");
    running.ask("in_other ip link set eth1 mtu 9000");
    assert_eq!(running.ask("ping -q -c 3 -i 0.2 -M do -s 8900 10.1.0.2 | grep -c ' 0% packet loss'"), "1");
    running.type_line("exit");
    running.wait(POWER_OFF).assert_powered_off();
}

/// When the driver has found out what the PHY has agreed on, three seconds after it has begun, it starts adapters anew: until
/// then frames may get lost.
const SETTLED: &str = "until [ $(dmesg | grep -c 'Setting full-duplex') = COUNT ]; do sleep 0.2; done";

/// Legacy adapters by the places that their driver finds them at, and the synthetic one, get names of their own; the
/// latter and the second of the former find each other on a network between two namespaces.
const NAMES: &str = "legacy() { ls /sys/bus/pci/drivers/tulip/0000:00:0$1.0/net; }; \
                     ip link set $(legacy a) name legacy0; ip link set $(legacy b) name legacy1; \
                     ip link set $(ls /sys/bus/vmbus/drivers/hv_netvsc/*/net) name synthetic0";
const KINDS: &str = "ip link set synthetic0 up; ip addr add 10.1.0.1/24 dev synthetic0; \
                     ip -6 addr add fd01::1/64 dev synthetic0 nodad; \
                     unshare -n sleep 1000 & other=$!; \
                     until [ $(readlink /proc/$other/ns/net) != $(readlink /proc/$$/ns/net) ]; do sleep 0.1; done; \
                     ip link set legacy1 netns $other; \
                     in_other() { nsenter -n -t $other \"$@\"; }; \
                     in_other ip addr add 10.1.0.2/24 dev legacy1; in_other ip -6 addr add fd01::2/64 dev legacy1 nodad; \
                     in_other ip link set legacy1 up";

#[test]
fn a_legacy_adapter_reaches_the_nat_and_a_synthetic_one() {
    let image = Image::empty(0);
    let nets = ["--net", "nat", "--net", "isolated,mac=00:15:5d:01:02:03", "--net", "isolated,nic=synthetic"];
    let options = [&nets[..], &["--nic", "legacy"]].concat();
    let mut running = Running::shell_of(Kernel::Generic, &image, &options, &[]);
    let state =
        |running: &Running, name: &str| row(&running.devices(), name)["state"].as_str().unwrap().to_owned();
    assert_eq!(state(&running, "network1"), "interface down; 00:15:5d:01:02:03");
    let kinds = ["network0", "network1", "network2"]
        .map(|name| row(&running.devices(), name)["kind"].as_str().unwrap().to_owned());
    assert_eq!(kinds, ["emulated", "emulated", "synthetic"]);
    running.ask(NAMES);
    assert_eq!(running.ask("cat /sys/class/net/legacy1/address"), "00:15:5d:01:02:03");

    running.ask("printf '#!/bin/sh\\n[ $1 = bound ] && echo $ip $router $dns $subnet\\n' > /run/say; chmod +x /run/say");
    running.ask("ip link set legacy0 up");
    running.ask(&SETTLED.replace("COUNT", "1"));
    let lease = running.ask("busybox udhcpc -n -q -f -i legacy0 -s /run/say 2>/dev/null");
    assert_eq!(lease, "10.0.2.15 10.0.2.2 10.0.2.3 255.255.255.0");
    running.ask("ip addr add 10.0.2.15/24 dev legacy0; ip route add default via 10.0.2.2");
    assert_eq!(running.ask("ping -q -c 3 -i 0.2 10.0.2.2 | grep -c ' 0% packet loss'"), "1");
    assert!(state(&running, "network0").starts_with("interface up; "));
    // There and back again.
    let (port, echo) = echo("127.0.0.1:0");
    running.ask("head -c 20M /dev/urandom > /tmp/sent");
    running.ask(&format!("busybox nc 10.0.2.2 {port} < /tmp/sent > /tmp/got"));
    assert_eq!(running.ask("cmp /tmp/sent /tmp/got && echo same"), "same");
    assert_eq!(echo.join().unwrap(), 20 << 20);

    running.ask(KINDS);
    running.ask(&SETTLED.replace("COUNT", "2"));
    assert_eq!(running.ask("ping -q -c 3 -i 0.2 -s 8000 10.1.0.2 | grep -c ' 0% packet loss'"), "1");
    // What the synthetic adapter leaves to be cut and summed is done for the legacy one.
    for (from, to) in [("", "in_other"), ("in_other", "")] {
        let address = if to.is_empty() { "fd01::1" } else { "10.1.0.2" };
        let copy = format!(
            "{to} busybox nc -l -p 99 > /tmp/got & nc=$!; \
             until {to} busybox netstat -ltn | grep -q :99; do sleep 0.1; done; \
             {from} busybox nc {address} 99 < /tmp/sent; wait $nc; cmp /tmp/sent /tmp/got && echo same"
        );
        assert!(running.ask(&copy).ends_with("same"));
    }
    let counted = row(&running.devices(), "network0").clone();
    assert!(
        counted["exits"].as_u64() > Some(10_000) && counted["bytes_in"].as_u64() > Some(20 << 20),
        "{counted}"
    );
    running.type_line("exit");
    running.wait(POWER_OFF).assert_powered_off();
}

#[test]
fn adapters_come_and_go_and_ports_let_through_what_they_are_told() {
    let image = Image::empty(0);
    let capture = image.folder().join("capture.pcap");
    let mut running = Running::shell(&image, &["--cpus", "2", "--net", "isolated"], &[]);
    let net = |running: &Running, words: &[&str]| {
        running.bodhi(&[&["net"], words].concat()).assert_done().to_owned()
    };
    let second = format!("isolated,mac=00:15:5d:01:02:03,rate=20M,capture={}", capture.display());
    assert_eq!(net(&running, &["attach", &second]), "network1\n");
    running.ask("until [ -e /sys/class/net/eth1 ]; do sleep 0.1; done");
    running.ask(TWO);
    assert_eq!(running.ask("ping -q -c 3 -i 0.2 10.1.0.2 | grep -c ' 0% packet loss'"), "1");
    let state = row(&running.devices(), "network1")["state"].as_str().unwrap().to_owned();
    assert_eq!(state, "driver bound, 2 channels; 00:15:5d:01:02:03");
    // 20 Mbit a second, and a burst.
    running.ask(
        "in_other iperf3 -s -1 -D; until in_other busybox netstat -ltn | grep -q :5201; do sleep 0.1; done",
    );
    let rate = "iperf3 -c 10.1.0.2 -t 3 -P 4 -f k | awk '/SUM.*receiver/ { print int($6) }'";
    let rate: u64 = running.ask(rate).parse().unwrap();
    assert!((1_000..24_000).contains(&rate), "{rate} kbit/s");

    net(&running, &["down", "network1"]);
    running.ask("until in_other ip link show eth1 | grep -q NO-CARRIER; do sleep 0.1; done");
    assert_eq!(running.ask("ping -q -c 1 -W 1 10.1.0.2 > /dev/null; echo $?"), "1");
    net(&running, &["up", "network1"]);
    running.ask("until ping -q -c 1 -W 1 10.1.0.2 > /dev/null; do :; done");

    net(&running, &["detach", "network1"]);
    running.ask("while in_other ip link show eth1 > /dev/null 2>&1; do sleep 0.1; done");
    assert_eq!(net(&running, &["attach", "nat,link=down"]), "network2\n");
    running.ask("until [ -e /sys/class/net/eth1 ]; do sleep 0.1; done");
    let list = net(&running, &["list"]);
    assert!(list.ends_with("  synthetic  nat,link=down\n") && list.lines().count() == 2, "{list}");
    running.type_line("exit");
    running.wait(POWER_OFF).assert_powered_off();

    // What went over the second one: first of all, who has 10.1.0.2?
    let captured = std::fs::read(capture).unwrap();
    assert_eq!(captured[..4], 0xa1b2_3c4d_u32.to_le_bytes());
    assert!(captured.windows(4).any(|bytes| bytes == [10, 1, 0, 2]));
}

#[test]
#[ignore = "makes an interface of the host, which needs privileges: make test-all"]
fn a_tap_leads_to_the_host_with_all_that_is_left_to_be_done() {
    let interface = Interface::make("bodhi-test", "10.9.8.1/24", 2).unwrap();
    let image = Image::empty(0);
    let mut running = Running::shell(&image, &["--cpus", "2", "--net", "tap:bodhi-test"], &[]);
    running.ask("ip link set eth0 up; ip addr add 10.9.8.2/24 dev eth0");
    assert_eq!(running.ask("ping -q -c 3 -i 0.2 10.9.8.1 | grep -c ' 0% packet loss'"), "1");
    let (port, echo) = echo("10.9.8.1:0");
    running.ask("head -c 50M /dev/urandom > /tmp/sent");
    running.ask(&format!("busybox nc 10.9.8.1 {port} < /tmp/sent > /tmp/got"));
    assert_eq!(running.ask("cmp /tmp/sent /tmp/got && echo same"), "same");
    assert_eq!(echo.join().unwrap(), 50 << 20);
    // Without the interface frames are dropped; everything else goes on.
    drop(interface);
    assert_eq!(running.ask("ping -q -c 1 -W 1 10.9.8.1 > /dev/null; echo $?"), "1");
    running.type_line("exit");
    running.wait(POWER_OFF).assert_powered_off();
}

#[test]
#[ignore = "a gigabyte and thousands of connections: make test-all"]
fn a_gigabyte_and_thousands_of_connections_go_through_the_nat_and_leave_nothing() {
    let image = Image::empty(0);
    let file = image.folder().join("large");
    std::fs::write(&file, (0..64_u32 << 20).map(|n| (n >> 3 ^ n) as u8).collect::<Vec<_>>()).unwrap();
    let output = Command::new("md5sum").arg(&file).output().unwrap();
    let sum = String::from_utf8(output.stdout).unwrap()[..32].to_owned();
    let port =
        serve(|_| vec![("large", Content::File(file)), ("small", Content::Text("good day\n".to_owned()))]);
    let mut running = Running::shell(&image, &["--net", "nat"], &[]);
    running.ask("ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2");
    let mut take = |files: u32, connections: u32| {
        let url = format!("http://10.0.2.2:{port}");
        let small = format!(
            "curl -sZ --parallel-max 50 '{url}/small?[1-{connections}]' 2>/dev/null | grep -c 'good day'"
        );
        assert_eq!(running.ask(&small), connections.to_string());
        let large =
            format!("for n in $(seq {files}); do curl -s {url}/large | md5sum; done | sort | uniq -c");
        assert_eq!(running.ask(&large), format!("{files} {sum}  -"));
        (running.descriptors(), running.resident())
    };
    let before = take(1, 200);
    let after = take(16, 4000);
    assert!(after.0 <= before.0 + 4, "{before:?} {after:?}");
    assert!(after.1 < before.1 + (64 << 20), "{before:?} {after:?}");
    running.type_line("exit");
    running.wait(POWER_OFF).assert_powered_off();
}

#[test]
fn nat_gives_an_address_and_leads_to_the_host_and_back() {
    leads_to_the_host_and_back(&[]);
}

#[test]
#[ignore = "an interpreter takes its time: make test-all"]
fn nat_leads_to_the_host_and_back_on_the_interpreter() {
    leads_to_the_host_and_back(&["--processor", "interpreter"]);
}

/// Somebody at `address` who sends back one datagram; its port.
fn echo_of_a_datagram(address: &str) -> u16 {
    let socket = UdpSocket::bind(address).unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut data = vec![0; 1 << 16];
        let (len, from) = socket.recv_from(&mut data).unwrap();
        socket.send_to(&data[..len], from).unwrap();
    });
    port
}

fn leads_to_the_host_and_back(options: &[&str]) {
    let image = Image::empty(0);
    let forwarded = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let net = format!("nat,hostfwd=tcp:{forwarded}-:7");
    let mut running = Running::shell(&image, &[&["--net", &net], options].concat(), &[]);
    running.ask("printf '#!/bin/sh\\n[ $1 = bound ] && echo $ip $router $dns $subnet\\n' > /run/say; chmod +x /run/say");
    running.ask("ip link set eth0 up");
    let lease = running.ask("busybox udhcpc -n -q -f -i eth0 -s /run/say 2>/dev/null");
    assert_eq!(lease, "10.0.2.15 10.0.2.2 10.0.2.3 255.255.255.0");
    running.ask("ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2");
    assert_eq!(running.ask("ping -q -c 3 -i 0.2 10.0.2.2 | grep -c ' 0% packet loss'"), "1");

    // There and back again, as much as takes many windows.
    let (port, echo) = echo("127.0.0.1:0");
    running.ask("head -c 20M /dev/urandom > /tmp/sent");
    running.ask(&format!("busybox nc 10.0.2.2 {port} < /tmp/sent > /tmp/got"));
    assert_eq!(running.ask("cmp /tmp/sent /tmp/got && echo same"), "same");
    assert_eq!(echo.join().unwrap(), 20 << 20);
    // Nobody is there.
    assert_eq!(
        running.ask(&format!("busybox nc 10.0.2.2 {port} < /dev/null > /dev/null 2>&1; echo $?")),
        "1"
    );
    // Datagrams that take several frames.
    running.ask("ip addr add fd00::15/64 dev eth0 nodad");
    for (ping, host, loopback) in [("-4", "10.0.2.2", "127.0.0.1:0"), ("-6", "fd00::2", "[::1]:0")] {
        assert_eq!(
            running.ask(&format!("ping {ping} -q -c 1 -s 4000 {host} | grep -c ' 0% packet loss'")),
            "1"
        );
        let port = echo_of_a_datagram(loopback);
        running.ask(&format!(
            "exec 3<>/dev/udp/{host}/{port}; dd if=/tmp/sent bs=5000 count=1 status=none >&3; \
             timeout 9 dd bs=64k count=1 status=none <&3 > /tmp/got; exec 3>&-"
        ));
        assert_eq!(running.ask("cmp -n 5000 /tmp/sent /tmp/got && echo same"), "same");
    }

    // From the host to the guest.
    running.ask("busybox nc -l -p 7 -e rev & until busybox netstat -ltn | grep -q :7; do sleep 0.1; done");
    let mut stream = TcpStream::connect(forwarded).unwrap();
    stream.write_all(b"good day\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "yad doog\n");
    running.type_line("exit");
    running.wait(POWER_OFF).assert_powered_off();
}
