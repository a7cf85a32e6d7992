use std::os::unix::net::UnixListener;

use super::*;

fn json(request: &Request) -> String {
    serde_json::to_string(request).unwrap()
}

#[test]
fn requests_are_written_as_the_protocol_says() {
    assert_eq!(json(&Request::PowerOff {}), r#"{"command":"power-off"}"#);
    assert_eq!(serde_json::from_str::<Request>(r#"{"command":"serial"}"#).unwrap(), Request::Serial {});
    assert!(serde_json::from_str::<Request>(r#"{"command":"explode"}"#).is_err());
    assert!(serde_json::from_str::<Request>(r#"{"command":"quit","now":true}"#).is_err());
}

#[test]
fn screen_and_keyboard_have_requests() {
    assert_eq!(json(&Request::ScreenText {}), r#"{"command":"screen-text"}"#);
    assert_eq!(json(&Request::Key { keys: "f1".to_owned() }), r#"{"command":"key","keys":"f1"}"#);
    let typed = Request::Type { text: "a\n".to_owned() };
    assert_eq!(serde_json::from_str::<Request>(r#"{"command":"type","text":"a\n"}"#).unwrap(), typed);
    assert_eq!(serde_json::to_string(&Reply::Text("x".to_owned())).unwrap(), r#"{"text":"x"}"#);
}

#[test]
fn replies_are_written_as_the_protocol_says() {
    assert_eq!(serde_json::to_string(&Reply::Done).unwrap(), r#""done""#);
    let devices = Reply::Devices(Devices { devices: vec![], counts: [("a".to_owned(), 1)].into() });
    assert_eq!(serde_json::to_string(&devices).unwrap(), r#"{"devices":{"devices":[],"counts":{"a":1}}}"#);
}

#[test]
fn a_socket_that_nobody_serves_is_replaced_and_removed_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api");
    drop(UnixListener::bind(&path).unwrap());
    let socket = ControlSocket::bind(&path).unwrap();
    assert!(path.exists());
    drop(socket);
    assert!(!path.exists());
}

#[test]
fn a_socket_in_use_and_a_file_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (used, file) = (directory.path().join("used"), directory.path().join("file"));
    let _listener = UnixListener::bind(&used).unwrap();
    std::fs::write(&file, "text").unwrap();
    let refusal = |path| ControlSocket::bind(path).unwrap_err().to_string();
    assert_eq!(refusal(&used), format!("--api {}: is in use by another worker", used.display()));
    assert_eq!(refusal(&file), format!("--api {}: exists and is no socket", file.display()));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");
}

#[test]
fn a_disk_to_attach_has_the_keys_of_the_configuration() {
    let text = r#"{"command":"attach-disk","disk":{"file":"a.img","readonly":true,"bus":"scsi"}}"#;
    let disk = "a.img,readonly,bus=scsi".parse().unwrap();
    assert_eq!(serde_json::from_str::<Request>(text).unwrap(), Request::AttachDisk { disk });
    let wrong = r#"{"command":"attach-disk","disk":{"file":"a.img","fast":true}}"#;
    assert!(serde_json::from_str::<Request>(wrong).unwrap_err().to_string().contains("fast"));
    assert!(serde_json::from_str::<Request>(r#"{"command":"attach-disk"}"#).is_err());
    let eject = serde_json::from_str::<Request>(r#"{"command":"eject-disc"}"#).unwrap();
    assert_eq!(eject, Request::EjectDisc { force: false });
    assert_eq!(
        serde_json::to_string(&Reply::Attached("scsi0:1".to_owned())).unwrap(),
        r#"{"attached":"scsi0:1"}"#
    );
}

const DOCUMENT: &str = include_str!("../../../../docs/control-socket.md");

/// The requests in [`DOCUMENT`].
fn documented() -> Vec<Request> {
    let quoted = DOCUMENT.split('`').filter(|text| text.starts_with("{\"command\":"));
    quoted.map(|text| serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))).collect()
}

#[test]
fn every_request_is_documented_as_it_is() {
    // Who asks for what there is not is told what there is.
    let told = serde_json::from_str::<Request>(r#"{"command":"explode"}"#).unwrap_err().to_string();
    let (_, names) = told.split_once("expected one of ").unwrap();
    let names = names.split('`').filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '-'));
    let name =
        |request: &Request| serde_json::to_value(request).unwrap()["command"].as_str().unwrap().to_owned();
    let documented: Vec<_> = documented().iter().map(name).collect();
    let missing: Vec<_> =
        names.filter(|name| !name.is_empty() && !documented.iter().any(|other| other == name)).collect();
    assert!(missing.is_empty() && documented.len() > 25, "{missing:?} of {told}");
}
