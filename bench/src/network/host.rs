//! The host's end of a network: an interface for the guest, and who answers iperf3.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use guests::Console;

/// How long iperf3 may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// iperf3 on the host. It is killed when this goes.
pub struct Server {
    child: Child,
    /// Where it listens.
    pub port: u16,
    /// Reads what it prints.
    _console: Console,
}

impl Server {
    /// Starts it at an address of the host, at a port that nobody uses.
    ///
    /// # Errors
    /// Why it does not listen.
    pub fn start(address: &str) -> Result<Self, String> {
        let port = free_port(address)?;
        let mut child = Command::new("iperf3")
            .args(["--server", "--forceflush", "--bind", address, "--port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("iperf3 does not start: {error}"))?;
        let console = Console::new(child.stdout.take().expect("a pipe"), Instant::now());
        let server = Self { child, port, _console: console.clone() };
        console.expect("Server listening", PATIENCE).map_err(|error| format!("iperf3: {error}"))?;
        Ok(server)
    }

    /// Whether the host has iperf3.
    pub fn is_there() -> bool {
        let version = Command::new("iperf3").arg("--version").stdout(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port(address: &str) -> Result<u16, String> {
    let listener = TcpListener::bind((address, 0)).and_then(|listener| listener.local_addr());
    listener.map(|at| at.port()).map_err(|error| format!("no port at {address}: {error}"))
}

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
            eprintln!("bench: {} is left behind: {error}", self.name);
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
