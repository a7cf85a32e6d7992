//! The device table of a running machine.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::artifacts::bodhi;

/// The table as `bodhi devices --json` prints it.
pub type Devices = Value;

/// Asks the machine behind the control socket `api`.
///
/// # Panics
/// If it does not answer with a table.
pub fn devices(api: &Path) -> Devices {
    let answer =
        Command::new(bodhi()).args(["devices", "--json", "--api"]).arg(api).output().expect("bodhi runs");
    let said = String::from_utf8_lossy(&answer.stderr);
    assert!(answer.status.success(), "bodhi devices: {said}");
    serde_json::from_slice(&answer.stdout).expect("a table in JSON")
}

/// The row of the device called `name`.
///
/// # Panics
/// If there is none.
pub fn row<'a>(devices: &'a Devices, name: &str) -> &'a Value {
    let rows = devices["devices"].as_array().unwrap_or_else(|| panic!("no rows in {devices:#}"));
    let found = rows.iter().find(|row| row["name"] == name);
    found.unwrap_or_else(|| panic!("no device {name} in {devices:#}"))
}
