//! Interfaces of the host, at whose other ends are guests.

use std::path::Path;
use std::process::Command;

/// A TAP interface of the host, which is removed when this goes.
pub struct Interface {
    name: &'static str,
}

impl Interface {
    /// Makes it, for so many queues, with an address. One of this name that an earlier run has left is removed.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn make(name: &'static str, address: &str, queues: u32) -> Result<Self, String> {
        if Path::new("/sys/class/net").join(name).exists() {
            ip(&["link", "delete", name])?;
        }
        let several: &[&str] = if queues > 1 { &["multi_queue"] } else { &[] };
        ip(&[&["tuntap", "add", "dev", name, "mode", "tap"], several].concat())?;
        let interface = Self { name };
        ip(&["address", "add", address, "dev", name])?;
        ip(&["link", "set", name, "up"])?;
        Ok(interface)
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        if let Err(error) = ip(&["link", "delete", self.name]) {
            eprintln!("{} is left behind: {error}", self.name);
        }
    }
}

fn ip(words: &[&str]) -> Result<(), String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new("ip").args(words).env("PATH", path).output();
    let output = output.map_err(|error| format!("ip does not start: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(format!("`ip {}`: {said}", words.join(" ")))
}
