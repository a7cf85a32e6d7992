//! The host's end of a network: who answers iperf3.

use std::net::TcpListener;
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
