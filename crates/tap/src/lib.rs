//! TAP interfaces of the host: Ethernet whose other end is a program.
//!
//! Linux `Documentation/networking/tuntap.rst`, `include/uapi/linux/if_tun.h`. All of this crate is unsafe code and what it
//! needs; frames are moved elsewhere, by the files that come from here.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Opcode, Updater, ioctl, opcode};

const SET_INTERFACE: Opcode = opcode::write::<i32>(b'T', 202);
const SET_OFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);

const TAP: u16 = 0x0002;
const MULTI_QUEUE: u16 = 0x0100;
const NO_PACKET_INFORMATION: u16 = 0x1000;
const VNET_HEADER: u16 = 0x4000;

/// What the host may leave to be done of a frame: checksums, and cuts of TCP over IPv4 and IPv6, with and without ECN.
const OFFLOADS: usize = 0x01 | 0x02 | 0x04 | 0x08;

/// Bytes of an interface's name, with the zero at its end.
const NAME: usize = 16;

/// The name of an interface: 1 to 15 bytes without `/`, blanks and `:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |byte: u8| byte == b'/' || byte == b':' || !byte.is_ascii_graphic();
        // A `%` is a pattern for the host, which would make an interface.
        if text.is_empty() || text.len() >= NAME || text.bytes().any(|byte| bad(byte) || byte == b'%') {
            return Err(format!("{text:?} is no name of an interface"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `struct ifreq`, as far as it is used here.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME],
    flags: u16,
    rest: [u8; 22],
}

/// Opens an interface that exists, with `queues` queues, or one if it has not been made for several. Each is a file that
/// does not block, from which a frame is read and to which one is written at a time, with a `virtio_net_hdr` of 10 bytes
/// before it.
///
/// # Errors
/// When there is none, it is in use, or this process may not use it.
pub fn open_queues(name: &Name, queues: usize) -> io::Result<Vec<OwnedFd>> {
    if !std::path::Path::new("/sys/class/net").join(&name.0).exists() {
        let text =
            format!("there is no interface {name}; `ip tuntap add dev {name} mode tap user USER` makes one");
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    if queues > 1 {
        match open_all(name, queues, MULTI_QUEUE) {
            // It has been made without the flag.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {}
            result => return result,
        }
    }
    open_all(name, 1, 0).or_else(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        // It has been made with the flag.
        Some(Errno::INVAL) => open_all(name, 1, MULTI_QUEUE),
        _ => Err(error),
    })
}

fn open_all(name: &Name, queues: usize, flags: u16) -> io::Result<Vec<OwnedFd>> {
    (0..queues).map(|_| open_queue(name, flags)).collect()
}

fn open_queue(name: &Name, flags: u16) -> io::Result<OwnedFd> {
    let file = open("/dev/net/tun", OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    let mut request = InterfaceRequest {
        name: [0; NAME],
        flags: TAP | NO_PACKET_INFORMATION | VNET_HEADER | flags,
        rest: [0; 22],
    };
    request.name.iter_mut().zip(name.0.bytes()).for_each(|(to, from)| *to = from);
    attach(&file, &mut request)?;
    set_offloads(&file)?;
    Ok(file)
}

fn attach(file: impl AsFd, request: &mut InterfaceRequest) -> io::Result<()> {
    // SAFETY: TUNSETIFF reads and writes a `struct ifreq`, which has 40 bytes, as has the request.
    let updater = unsafe { Updater::<SET_INTERFACE, _>::new(request) };
    // SAFETY: the request's memory is this one's alone, and the call keeps no pointer to it.
    Ok(unsafe { ioctl(file, updater) }?)
}

fn set_offloads(file: impl AsFd) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes a number.
    let setter = unsafe { IntegerSetter::<SET_OFFLOAD>::new_usize(OFFLOADS) };
    // SAFETY: as above.
    Ok(unsafe { ioctl(file, setter) }?)
}

const _: () = assert!(size_of::<InterfaceRequest>() == 40);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_interfaces_can_have() {
        for good in ["tap0", "a", "fifteen-bytes-1"] {
            assert_eq!(good.parse::<Name>().unwrap().to_string(), good);
        }
        for bad in ["", "sixteen-bytes-12", "a/b", "a b", "tap%d", "a:1", "ä"] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_interface_that_does_not_exist_is_not_made() {
        let error = open_queues(&"bodhi-none".parse().unwrap(), 1).unwrap_err();
        assert!(error.to_string().contains("there is no interface bodhi-none"), "{error}");
    }
}
