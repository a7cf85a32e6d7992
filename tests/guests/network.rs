//! Networks: with the driver of Debian's kernel.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use guests::{Image, POWER_OFF, Running, row};

/// Two adapters of one guest, the second in a network namespace of its own, so that what they say goes over the network.
const TWO: &str = "ip link set eth0 up; ip addr add 10.1.0.1/24 dev eth0; ip -6 addr add fd01::1/64 dev eth0 nodad; \
                   unshare -n sleep 1000 & other=$!; sleep 0.3; ip link set eth1 netns $other; \
                   in_other() { nsenter -n -t $other \"$@\"; }; \
                   in_other ip addr add 10.1.0.2/24 dev eth1; in_other ip -6 addr add fd01::2/64 dev eth1 nodad; \
                   in_other ip link set eth1 up";

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
            "head -c 30M /dev/urandom > /tmp/sent; in_other busybox nc -l -p 99 > /tmp/got & nc=$!; sleep 0.3; \
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

#[test]
fn nat_gives_an_address_and_leads_to_the_host_and_back() {
    let image = Image::empty(0);
    let forwarded = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let net = format!("nat,hostfwd=tcp:{forwarded}-:7");
    let mut running = Running::shell(&image, &["--net", &net], &[]);
    running.ask("printf '#!/bin/sh\\n[ $1 = bound ] && echo $ip $router $dns $subnet\\n' > /run/say; chmod +x /run/say");
    running.ask("ip link set eth0 up");
    let lease = running.ask("busybox udhcpc -n -q -f -i eth0 -s /run/say 2>/dev/null");
    assert_eq!(lease, "10.0.2.15 10.0.2.2 10.0.2.3 255.255.255.0");
    running.ask("ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2");
    assert_eq!(running.ask("ping -q -c 3 -i 0.2 10.0.2.2 | grep -c ' 0% packet loss'"), "1");

    // There and back again, as much as takes many windows.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let echo = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let copied = io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        copied
    });
    running.ask("head -c 20M /dev/urandom > /tmp/sent");
    running.ask(&format!("busybox nc 10.0.2.2 {port} < /tmp/sent > /tmp/got"));
    assert_eq!(running.ask("cmp /tmp/sent /tmp/got && echo same"), "same");
    assert_eq!(echo.join().unwrap(), 20 << 20);
    // Nobody is there.
    assert_eq!(
        running.ask(&format!("busybox nc 10.0.2.2 {port} < /dev/null > /dev/null 2>&1; echo $?")),
        "1"
    );

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
