//! Networks: with the driver of Debian's kernel.

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
