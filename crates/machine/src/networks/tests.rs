use super::*;

fn networks(nets: &[&str]) -> Networks {
    let nets = nets.iter().map(|net| net.parse().unwrap()).collect();
    Networks::new(&MachineConfig { nets, ..MachineConfig::default() }).unwrap()
}

#[test]
fn adapters_have_addresses_of_their_own_which_stay() {
    let all = [address("a", 0), address("a", 1), address("b", 0)];
    assert_eq!(address("a", 0), all[0]);
    assert!(all[0] != all[1] && all[0] != all[2] && all[1] != all[2]);
    assert!(all.iter().all(|mac| !mac.is_group()));
}

#[test]
fn adapters_come_and_go_and_their_names_are_given_once() {
    let networks = networks(&["isolated", "isolated,nic=legacy"]);
    assert_eq!(networks.attach(&"isolated,link=down".parse().unwrap()).unwrap(), "network2");
    networks.detach("network2").unwrap();
    assert_eq!(networks.attach(&"isolated".parse().unwrap()).unwrap(), "network3");
    networks.set_link("network3", false).unwrap();
    let present: Vec<_> = networks.present().iter().map(ToString::to_string).collect();
    assert_eq!(present, ["isolated", "isolated,nic=legacy", "isolated,link=down"]);
    let names: Vec<_> = networks.status().into_iter().map(|status| status.name).collect();
    assert_eq!(names, ["network0", "network1", "network3"]);
}

#[test]
fn a_port_is_what_its_adapter_says() {
    let networks = networks(&["isolated,nic=legacy,spoofing=off,mac=00:15:5d:00:00:01,link=down"]);
    let connected = networks.connect_legacy().unwrap();
    let [(0, port, mac)] = &connected[..] else { panic!("{connected:?}") };
    let frame = |from: Mac| network::Frame::new([Mac::BROADCAST.0, from.0, [0; 6]].concat());
    assert!(!port.link());
    networks.set_link("network0", true).unwrap();
    assert!(port.link());
    port.send(frame(*mac));
    assert_eq!(port.dropped().value(), 0);
    port.send(frame(Mac([0, 0x15, 0x5d, 0, 0, 2])));
    assert_eq!(port.dropped().value(), 1);
}

#[test]
fn what_cannot_be_changed_is_told() {
    let networks = networks(&["isolated,nic=legacy"]);
    let attach = |text: &str| networks.attach(&text.parse().unwrap());
    for text in ["isolated,nic=legacy", "tap:bodhi-none", "isolated,capture=/none/a.pcap"] {
        assert!(matches!(attach(text), Err(ChangeError::Input(reason)) if reason.starts_with(text)));
    }
    assert!(matches!(networks.detach("network0"), Err(ChangeError::Refused(_))));
    for name in ["network1", "eth0", ""] {
        assert!(matches!(networks.detach(name), Err(ChangeError::Input(_))));
        assert!(matches!(networks.set_link(name, true), Err(ChangeError::Input(_))));
    }
    for _ in 1..MAX_NETS {
        attach("isolated").unwrap();
    }
    assert!(matches!(attach("isolated"), Err(ChangeError::Refused(reason)) if reason.contains("up to 8")));
    networks.end();
    assert!(matches!(networks.set_link("network0", true), Err(ChangeError::Refused(_))));
}
