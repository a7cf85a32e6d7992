//! GDB, as a user runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::machine::is_nested;

/// What GDB prints for `commands` at the machine whose `--gdb unix:F` is `socket`. It has a minute, and ten of
/// them in the nested host.
///
/// # Panics
/// If there is no GDB.
pub fn gdb(socket: &Path, commands: &str) -> String {
    let before = "set pagination off\nset confirm off\nset tcp connect-timeout 20";
    let script = format!("{before}\ntarget remote {}\n{commands}\n", socket.display());
    let file = script_file(socket);
    std::fs::write(&file, script).expect("a script");
    let patience = if is_nested() { "600" } else { "60" };
    let output = Command::new("timeout")
        .args([patience, "gdb", "-q", "-nx", "-batch", "-x"])
        .arg(&file)
        .stdin(Stdio::null())
        .output()
        .expect("gdb is installed");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn script_file(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".gdb");
    name.into()
}
