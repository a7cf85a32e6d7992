//! The control socket: a Unix socket, one JSON request per line, one JSON reply per line.
//!
//! ```text
//! → {"command":"status"}      ← {"status":{"name":"vm",…}}
//! → {"command":"devices"}     ← {"devices":{"devices":[…],"counts":{…}}}
//! → {"command":"power-off"}   ← "done"      the ACPI power button: the guest is asked to power off
//! → {"command":"reset"}       ← "done"      the machine starts again, as after its reset button
//! → {"command":"pause"}       ← "done"      processors and the guest's time stand still
//! → {"command":"resume"}      ← "done"
//! → {"command":"quit"}        ← "done"      the machine stops at once; its disks are flushed
//! → {"command":"serial"}      ← "done"      from here on the connection is the serial port's
//! → {"command":"config"}      ← {"config":{…}}     with the disks and the disc that are present now
//! → {"command":"disks"}       ← {"disks":{"disks":[…],"drive":…}}
//! → {"command":"attach-disk","disk":{"file":"F",…}}        ← {"attached":"scsi0:1"}
//! → {"command":"detach-disk","disk":"scsi0:1"}             ← "done"      flushed, its image free
//! → {"command":"insert-disc","file":"F.iso"}               ← "done"
//! → {"command":"eject-disc","force":false}                 ← "done"
//! → {"command":"nets"}        ← {"nets":[…]}
//! → {"command":"attach-net","net":"nat"}                   ← {"attached":"network1"}
//! → {"command":"detach-net","net":"network1"}              ← "done"
//! → {"command":"set-link","net":"network1","up":false}     ← "done"
//! → {"command":"screenshot"}  ← {"screenshot":"…"}      a PNG file in base64 (RFC 4648)
//! → {"command":"screen-text"} ← {"text":"…"}      if the screen is in text mode
//! → {"command":"type","text":"…"}                          ← "done"      on a keyboard with the US layout
//! → {"command":"key","keys":"ctrl-alt-del"}                ← "done"
//! → {"command":"integration"}                              ← {"integration":{"components":"full",…}}
//! → {"command":"shutdown","what":"power-off","force":false} ← "done"      the guest has said that it will
//! → {"command":"set-key","key":"K","value":"V"}            ← "done"
//! → {"command":"delete-key","key":"K"}                     ← "done"
//! → {"command":"set-addresses","adapter":null,"addresses":{"dhcp":true}}   ← "done"      the guest's program has done it
//! → {"command":"copy-file","from":"F","to":"/F","overwrite":false}   ← "done"
//! → {"command":"back-up","file":"F"}                       ← "done"      there is a copy of all disks
//! → {"command":"enable-service","service":"heartbeat","on":false}   ← "done"
//! → anything else             ← {"error":"…"}
//! ```
//!
//! A request that the machine refuses is answered by `error`, one that names what does not do, such as a file
//! that is missing, by `input`:
//!
//! ```text
//!                             ← {"input":"F: no such file"}
//! ```
//!
//! `docs/control-socket.md` tells users of it.

mod client;
mod server;

#[cfg(test)]
mod tests;

pub use client::{Client, ClientError};
pub use server::{ControlSocket, Serving, SocketFile};

use std::collections::BTreeMap;
use std::path::PathBuf;

use counters::DeviceRow;
use machine::config::{DiskConfig, NetConfig, ServiceKind};
use machine::{
    Addresses, DiskStatus, DriveStatus, IntegrationStatus, MachineConfig, NetStatus, Shutdown, Status,
};
use serde::{Deserialize, Serialize};

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How the machine is.
    Status {},
    /// What the devices have done.
    Devices {},
    /// Ask the guest to power off.
    PowerOff {},
    /// Start again.
    Reset {},
    /// Stop processors and the guest's time.
    Pause {},
    /// Let them go on.
    Resume {},
    /// Stop at once.
    Quit {},
    /// Make this connection the serial port's.
    Serial {},
    /// The configuration, with the disks, the disc and the network adapters that are present now.
    Config {},
    /// The disks and the optical drive.
    Disks {},
    /// Put a disk on the synthetic SCSI controller.
    AttachDisk {
        /// The disk, as `--disk` describes it.
        disk: DiskConfig,
    },
    /// Take a disk from the synthetic SCSI controller.
    DetachDisk {
        /// Its name, or its file.
        disk: String,
    },
    /// Put a disc into the optical drive.
    InsertDisc {
        /// The ISO image.
        file: PathBuf,
    },
    /// Take the disc out of the optical drive.
    EjectDisc {
        /// Also when the guest holds it.
        #[serde(default)]
        force: bool,
    },
    /// The network adapters.
    Nets {},
    /// Give the guest a synthetic network adapter.
    AttachNet {
        /// The adapter, as `--net` describes it.
        net: NetConfig,
    },
    /// Take a synthetic network adapter away.
    DetachNet {
        /// Its name.
        net: String,
    },
    /// Plug in a network adapter's cable, or pull it out.
    SetLink {
        /// Its name.
        net: String,
        /// Whether it is to be plugged in.
        up: bool,
    },
    /// The screen as an image.
    Screenshot {},
    /// The screen's text.
    ScreenText {},
    /// Type on the keyboard.
    Type {
        /// What to type.
        text: String,
    },
    /// Press keys at once.
    Key {
        /// Names and characters with dashes between them.
        keys: String,
    },
    /// How the integration services are.
    Integration {},
    /// Have the guest's system power off, restart or hibernate.
    Shutdown {
        /// Which.
        #[serde(default)]
        what: Shutdown,
        /// Whatever its programs say.
        #[serde(default)]
        force: bool,
    },
    /// Leave a key-value pair for the guest.
    SetKey {
        /// Its key.
        key: String,
        /// Its value.
        value: String,
    },
    /// Take back a key-value pair that was left for the guest.
    DeleteKey {
        /// Its key.
        key: String,
    },
    /// Have a network adapter of the guest have these addresses.
    SetAddresses {
        /// Its name in the device table; none if there is only one.
        #[serde(default)]
        adapter: Option<String>,
        /// What it is to be like.
        addresses: Addresses,
    },
    /// Put a file into the guest.
    CopyFile {
        /// The host's file.
        from: PathBuf,
        /// Where it goes in the guest.
        to: String,
        /// Also when it is there already.
        #[serde(default)]
        overwrite: bool,
    },
    /// Copy all disks while the guest's file systems stand still.
    BackUp {
        /// The image, or a folder of images if there are several.
        file: PathBuf,
    },
    /// Offer an integration service to the guest, or take it away.
    EnableService {
        /// Which.
        service: ServiceKind,
        /// Whether it is to be offered.
        on: bool,
    },
}

/// What a worker answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Devices`].
    Devices(Devices),
    /// To [`Request::Config`].
    Config(Box<MachineConfig>),
    /// To [`Request::Disks`].
    Disks(Disks),
    /// To [`Request::Nets`].
    Nets(Vec<NetStatus>),
    /// To [`Request::AttachDisk`] and [`Request::AttachNet`]: what it is called.
    Attached(String),
    /// To [`Request::Screenshot`]: a PNG file in base64.
    Screenshot(String),
    /// To [`Request::ScreenText`].
    Text(String),
    /// To [`Request::Integration`].
    Integration(Box<IntegrationStatus>),
    /// It is done, or on its way.
    Done,
    /// It is not, and why.
    Error(String),
    /// It is not, because of what was given.
    Input(String),
}

/// The disks and the optical drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disks {
    /// The disks.
    pub disks: Vec<DiskStatus>,
    /// The optical drive, if there is one.
    pub drive: Option<DriveStatus>,
}

/// The device table and the counts that belong to no device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Devices {
    /// A row for each device.
    pub devices: Vec<DeviceRow>,
    /// The value of each count, by its name.
    pub counts: BTreeMap<String, u64>,
}
