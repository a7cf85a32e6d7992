//! The kernel's devices: register, then answer one request after the other.
//!
//! Linux `drivers/hv/hv_utils_transport.c`: whole messages by `read` and `write`; the device is for one program at a
//! time, and goes with the host's service, which a read that waits is told by an error.

use std::fs::File;
use std::io::{self, Read, Write};

use anyhow::{Context, Result, anyhow};

/// Bytes that hold any message.
const LONGEST: usize = 16 << 10;

/// What answers the requests that come by a device.
pub trait Service {
    /// The kernel's device.
    const DEVICE: &'static str;

    /// What the driver is told first.
    fn registration(&self) -> Vec<u8>;
    /// What the driver has answered to that.
    fn registered(&mut self, _answer: &[u8]) {}
    /// The answer to a request; `None` to one that is none.
    fn answer(&mut self, request: &[u8]) -> Option<Vec<u8>>;
    /// The talk has been cut off: what is half done is undone.
    fn cut_off(&mut self);
}

/// Serves until the device is there no more.
///
/// # Errors
/// When there is no such device at first, another program has it or the driver refuses the registration.
pub fn serve<S: Service>(mut service: S) -> Result<()> {
    let mut first = true;
    loop {
        match open(S::DEVICE) {
            // The driver has been told by the host to let go.
            Err(error) if !first && is_gone(&error) => return Ok(()),
            file => {
                let file = file.with_context(|| S::DEVICE.to_owned())?;
                let ended = talk(&mut service, file, first);
                service.cut_off();
                // Hibernation and a driver that goes end a talk: open again to see which.
                eprintln!("bodhi-integration: {}: {:#}", S::DEVICE, ended?);
            }
        }
        first = false;
    }
}

fn open(path: &str) -> io::Result<File> {
    File::options().read(true).write(true).open(path)
}

fn is_gone(error: &io::Error) -> bool {
    const ENODEV: i32 = 19;
    const ENXIO: i32 = 6;
    const EBADF: i32 = 9;
    error.kind() == io::ErrorKind::NotFound || matches!(error.raw_os_error(), Some(ENODEV | ENXIO | EBADF))
}

/// Talks until reading or writing fails; returns why it ended.
fn talk<S: Service>(service: &mut S, mut file: File, first: bool) -> Result<anyhow::Error> {
    let mut buffer = vec![0; LONGEST];
    let registered = file.write_all(&service.registration()).and_then(|()| file.read(&mut buffer));
    match registered {
        Ok(length) => service.registered(&buffer[..length]),
        Err(error) if first => return Err(error).context(format!("{}: registration", S::DEVICE)),
        Err(error) => return Ok(anyhow!(error).context("registration")),
    }
    eprintln!("bodhi-integration: {}: serving the host", S::DEVICE);
    loop {
        let length = match file.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Ok(anyhow!(error).context("reading")),
        };
        let Some(answer) = service.answer(&buffer[..length]) else {
            return Ok(anyhow!("a request of {length} bytes is none"));
        };
        if let Err(error) = file.write_all(&answer) {
            return Ok(anyhow!(error).context("writing"));
        }
    }
}
