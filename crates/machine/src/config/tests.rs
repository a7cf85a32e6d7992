use super::*;

fn bootable() -> MachineConfig {
    MachineConfig { kernel: Some("vmlinuz".into()), ..MachineConfig::default() }
}

fn refusal(config: &MachineConfig) -> String {
    config.validate().unwrap_err().to_string()
}

#[test]
fn memory_is_written_with_a_unit_or_in_mib() {
    let bytes = |text: &str| text.parse::<MemorySize>().map(|size| size.0);
    assert_eq!(bytes("512M"), Ok(512 << 20));
    assert_eq!(bytes("4g"), Ok(4 << 30));
    assert_eq!(bytes("2GiB"), Ok(2 << 30));
    assert_eq!(bytes("256"), Ok(256 << 20));
    assert_eq!(bytes("64K"), Ok(64 << 10));
}

#[test]
fn memory_that_is_no_size_is_refused() {
    for text in ["", "M", "12X", "-1M", "1.5G", "5K", "99999999999T", "1 G"] {
        assert!(text.parse::<MemorySize>().is_err(), "{text}");
    }
}

#[test]
fn a_size_is_printed_as_it_is_written() {
    for text in ["512M", "4G", "3T", "68K"] {
        assert_eq!(text.parse::<MemorySize>().unwrap().to_string(), text);
    }
}

#[test]
fn a_disk_takes_its_options_after_the_file() {
    let disk: DiskConfig = "root.img,format=raw,readonly,snapshot,bus=scsi".parse().unwrap();
    let expected = DiskConfig {
        file: "root.img".into(),
        format: DiskFormat::Raw,
        readonly: true,
        snapshot: true,
        bus: DiskBus::Scsi,
    };
    assert_eq!(disk, expected);
}

#[test]
fn a_comma_in_a_disk_name_is_doubled() {
    let disk: DiskConfig = "a,,b.img,readonly".parse().unwrap();
    assert_eq!((disk.file, disk.readonly), (PathBuf::from("a,b.img"), true));
}

#[test]
fn unknown_disk_options_are_named() {
    let refused = |text: &str| text.parse::<DiskConfig>().unwrap_err();
    assert_eq!(refused("d,bus=usb"), "bus=usb: the bus must be auto, ide or scsi");
    assert_eq!(refused("d,format=vmdk"), "format=vmdk: the format must be raw");
    assert_eq!(refused("d,fast"), "fast: no such disk option");
    assert_eq!(refused("d,readonly=1"), "readonly=1: no such disk option");
    assert_eq!(refused(",readonly"), "a disk needs a file");
}

#[test]
fn serial_ports_lead_to_stdio_a_file_or_a_socket() {
    assert_eq!("stdio".parse(), Ok(Serial::Stdio));
    assert_eq!("file:log".parse(), Ok(Serial::File("log".into())));
    assert_eq!("socket:a:b".parse(), Ok(Serial::Socket("a:b".into())));
    assert!("file:".parse::<Serial>().is_err());
    assert!("tcp:1".parse::<Serial>().is_err());
}

#[test]
fn enlightenments_are_all_none_or_a_list() {
    assert_eq!("auto".parse(), Ok(Enlightenments::Auto));
    assert_eq!("all".parse(), Ok(Enlightenments::All));
    assert_eq!("none".parse(), Ok(Enlightenments::None));
    assert_eq!("a, b".parse(), Ok(Enlightenments::List(vec!["a".to_owned(), "b".to_owned()])));
}

#[test]
fn every_refusal_names_the_option() {
    assert_eq!(refusal(&MachineConfig::default()), "--kernel: is required: there is nothing to boot");
    assert_eq!(refusal(&MachineConfig { cpus: 0, ..bootable() }), "--cpus 0: must be from 1 to 64");
    assert_eq!(
        refusal(&MachineConfig { memory: MemorySize(1 << 20), ..bootable() }),
        "--memory 1M: too small: a machine needs at least 32M"
    );
}

#[test]
fn a_synthetic_disk_contradicts_synthetic_off() {
    let disks = vec!["d.img,bus=scsi".parse().unwrap()];
    let config = MachineConfig { disks, synthetic: Switch::Off, ..bootable() };
    assert!(refusal(&config).starts_with("--disk d.img: bus=scsi"));
}

#[test]
fn the_fifth_ide_drive_is_refused_and_the_fifth_auto_disk_is_not() {
    let disks = |bus: &str| (0..5).map(|n| format!("{n}.img,bus={bus}").parse().unwrap()).collect();
    let config = MachineConfig { disks: disks("ide"), ..bootable() };
    assert_eq!(refusal(&config), "--disk 4.img: at most 4 drives fit on the IDE buses");
    let config = MachineConfig { disks: disks("auto"), ..bootable() };
    assert_eq!(config.validate(), Ok(()));
    let config = MachineConfig { disks: disks("auto"), synthetic: Switch::Off, ..bootable() };
    assert!(refusal(&config).starts_with("--disk 4.img"));
}

#[test]
fn a_disk_given_twice_is_refused() {
    let disks = vec!["d.img".parse().unwrap(), "d.img".parse().unwrap()];
    assert_eq!(refusal(&MachineConfig { disks, ..bootable() }), "--disk d.img: is given twice");
}

#[test]
fn an_unknown_enlightenment_is_refused_with_its_option() {
    let enlightenments = "warp".parse().unwrap();
    let error = refusal(&MachineConfig { enlightenments, ..bootable() });
    assert!(error.starts_with("--enlightenments: unknown enlightenment \"warp\""), "{error}");
}

#[test]
fn the_vmbus_needs_synthetic_devices_and_the_way_to_talk() {
    let has_vmbus = |list: &str, synthetic| {
        let enlightenments = list.parse().unwrap();
        MachineConfig { enlightenments, synthetic, ..MachineConfig::default() }.has_vmbus().unwrap()
    };
    assert!(has_vmbus("all", Switch::On));
    assert!(!has_vmbus("all", Switch::Off));
    assert!(!has_vmbus("none", Switch::On));
    assert!(!has_vmbus("reference-tsc", Switch::On));
    assert!(has_vmbus("post-messages,signal-events", Switch::On));
}

#[test]
fn a_cdrom_has_a_disc_or_is_empty_on_either_bus() {
    let cdrom = |text: &str| text.parse::<CdromConfig>();
    assert_eq!(cdrom("a.iso"), Ok(CdromConfig { file: Some("a.iso".into()), bus: CdromBus::Ide }));
    assert_eq!(cdrom("empty,bus=scsi"), Ok(CdromConfig { file: None, bus: CdromBus::Scsi }));
    assert_eq!(cdrom("./empty").unwrap().file, Some("./empty".into()));
    assert_eq!(cdrom("a,bus=usb"), Err("bus=usb: the bus must be ide or scsi".to_owned()));
    assert_eq!(cdrom("a,readonly"), Err("readonly: no such CD-ROM option".to_owned()));
    assert!(cdrom("").is_err());
    for text in ["a,,b.iso", "empty", "a.iso,bus=scsi"] {
        assert_eq!(cdrom(text).unwrap().to_string(), text);
    }
}

#[test]
fn a_synthetic_cdrom_needs_the_vmbus_and_no_place_on_ide() {
    let cdrom = Some("a.iso,bus=scsi".parse().unwrap());
    let config = MachineConfig { cdrom: cdrom.clone(), synthetic: Switch::Off, ..bootable() };
    assert!(refusal(&config).starts_with("--cdrom a.iso,bus=scsi: bus=scsi is a synthetic device"));
    let disks = (0..4).map(|n| format!("{n}.img,bus=ide").parse().unwrap()).collect();
    let config = MachineConfig { cdrom, disks, ..bootable() };
    assert_eq!(config.validate(), Ok(()));
    let config = MachineConfig { cdrom: Some("a.iso".parse().unwrap()), ..config };
    assert_eq!(refusal(&config), "--disk 3.img: at most 4 drives fit on the IDE buses");
}

#[test]
fn what_is_told_of_translated_code_is_a_list() {
    let choice: Translator = "map,dump=blocks.txt".parse().unwrap();
    assert_eq!(choice, Translator { map: true, count: false, dump: Some("blocks.txt".into()) });
    assert_eq!(String::from(choice), "map,dump=blocks.txt");
    assert!("none".parse::<Translator>().unwrap().is_none());
    assert!("dump=".parse::<Translator>().is_err());
    assert!("".parse::<Translator>().is_err());
}

#[test]
fn an_interpreter_has_no_translated_code_to_tell_of() {
    let config = MachineConfig {
        kernel: Some("vmlinuz".into()),
        processor: ProcessorChoice::Interpreter,
        translator: Translator { map: true, ..Translator::default() },
        ..MachineConfig::default()
    };
    let error = config.validate().unwrap_err().to_string();
    assert!(error.starts_with("--translator map: "), "{error}");
}

#[test]
fn memory_may_grow_by_whole_blocks_and_shrink() {
    let memory: MemoryOption = "512M,min=256M,max=2G".parse().unwrap();
    let size = |mib: u64| MemorySize(mib << 20);
    assert_eq!(memory, MemoryOption { size: size(512), min: Some(size(256)), max: Some(size(2048)) });
    assert_eq!("1G".parse(), Ok(MemoryOption { size: size(1024), min: None, max: None }));
    let wrong = |text: &str| text.parse::<MemoryOption>().unwrap_err();
    assert_eq!(wrong("1G,most=2G"), "most=2G: no such option of the memory");
    assert_eq!(wrong("1G,max=x"), "max=x: must be a size such as 512M or 4G");
    let grows = |size, max| MachineConfig {
        memory: MemorySize(size),
        memory_max: Some(MemorySize(max)),
        ..bootable()
    };
    assert_eq!(grows(512 << 20, 2 << 30).validate(), Ok(()));
    for (config, reason) in [
        (grows(1 << 30, 1 << 30), "--memory max=1G: is no more than the machine starts with: 1G"),
        (grows(512 << 20, 2 << 40), "--memory max=2T: too large: a machine grows to 1T at the most"),
        (
            grows(500 << 20, 2 << 30),
            "--memory max=2G: a machine that grows starts with a multiple of 128M, and grows to one",
        ),
    ] {
        assert_eq!(refusal(&config), reason);
    }
    let config = MachineConfig { synthetic: Switch::Off, ..grows(512 << 20, 1 << 30) };
    assert!(refusal(&config).starts_with("--memory max=1G: needs a synthetic device"));
}

#[test]
fn an_adapter_is_what_it_says_itself_or_what_all_are() {
    let net: NetConfig = "nat,host=off,mac=00:15:5d:00:00:01,nic=legacy".parse().unwrap();
    assert_eq!(net.to_string(), "nat,host=off,mac=00:15:5d:00:00:01,nic=legacy");
    let nets = ["isolated", "isolated,nic=synthetic", "isolated,nic=legacy"].map(|net| net.parse().unwrap());
    let config = MachineConfig { nets: nets.to_vec(), nic: Nic::Legacy, ..bootable() };
    let nics = config.nets.iter().map(|net| config.nic_of(net)).collect::<Vec<_>>();
    assert_eq!(nics, [Nic::Legacy, Nic::Synthetic, Nic::Legacy]);
    // Without VMBus there are emulated ones only.
    let config = MachineConfig { synthetic: Switch::Off, ..config };
    assert!(refusal(&config).starts_with("--net isolated,nic=synthetic: needs a synthetic device"));
    let [first, _, last] = nets;
    assert_eq!(MachineConfig { nets: vec![first, last], ..config }.validate(), Ok(()));
}
