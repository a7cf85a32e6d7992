//! Integration services: the host's side of what makes a guest a good guest.
//!
//! ```text
//!   hv_utils                     provider (one thread per open channel)
//!   negotiate ◀────────────────  conversation: versions, then one request at a time
//!   answer    ────────────────▶    │
//!                                  ├─ shutdown    power off, restart, hibernate
//!                                  ├─ time_sync   the time of day
//!                                  ├─ heartbeat   is the guest alive?
//!                                  ├─ key_value   strings for each other, addresses of network adapters
//!                                  ├─ backup      file systems that stand still for a copy
//!                                  └─ file_copy   files for the guest
//! ```
//!
//! Each service is a device of the VMBus; the guest's answers are data of an adversary and only ever change what
//! is reported of that guest.
#![forbid(unsafe_code)]

mod addresses;
mod backup;
mod conversation;
mod file_copy;
mod heartbeat;
mod key_value;
mod message;
mod provider;
mod services;
mod shutdown;
#[cfg(test)]
mod tests;
mod text;
mod time_sync;
mod wishes;

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use clock::Clock;
use counters::{DeviceState, Kind, Registry};
use serde::{Deserialize, Serialize};
use vmbus::{Guid, OfferError, Server};

pub use addresses::{Address, Addresses};
pub use conversation::State;
pub use heartbeat::Applications;
pub use key_value::KeyValues;
pub use message::Version;
pub use services::{ServiceKind, Services, UnknownService};
pub use shutdown::Shutdown;
pub use time_sync::TimeSource;

use backup::BackupService;
use conversation::Service;
use file_copy::{FileCopyService, NAME_UNITS};
use heartbeat::HeartbeatService;
use key_value::{KEY_UNITS, KeyValueService, VALUE_UNITS};
use provider::{AnyProvider, Contact, Provider};
use shutdown::ShutdownService;
use time_sync::TimeSyncService;
use wishes::{Asked, Outcome};

/// How long a guest may take to answer a request that somebody waits for.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long its programs may take to set the addresses of an adapter.
const SET_ADDRESSES: Duration = Duration::from_secs(60);
/// The longest name of an adapter, in units of UTF-16.
const ADAPTER_UNITS: usize = 126;
/// How long it may take to freeze its file systems: what they have not written yet is written.
const FREEZE: Duration = Duration::from_secs(60);
/// How long a copy of a file may take, besides [`SLOWEST`].
const COPY: Duration = Duration::from_secs(60);
/// Bytes a second that a copy is expected to have at the least.
const SLOWEST: u64 = 64 << 10;

/// How a service is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ServiceStatus {
    /// Which one.
    pub service: ServiceKind,
    /// How it is.
    pub state: State,
    /// The service's version that the guest speaks.
    pub version: Option<String>,
    /// Milliseconds since the guest was heard last.
    pub last_contact_ms: Option<u64>,
    /// With the heartbeat: how the guest's applications are, once it has told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applications: Option<Applications>,
}

/// What a status says beyond its number.
fn hint(status: u32) -> &'static str {
    // Linux's drivers answer so also for a program that they wait for (`drivers/hv/hv_fcopy.c`, `hv_snapshot.c`).
    if status == message::STATUS_FAIL {
        " (it failed, or the program that does it is not running)"
    } else {
        ""
    }
}

/// Why a guest does not do what it is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Nobody in the guest listens.
    #[error("the guest does not offer it: the service \"{0}\" is {1}")]
    Unavailable(ServiceKind, &'static str),
    /// It did not answer in time.
    #[error("the guest does not answer")]
    Timeout,
    /// It said no.
    #[error("the guest refuses: status {status:#010x}{hint}", status = .0, hint = hint(*.0))]
    Refused(u32),
    /// It has gone, or its driver.
    #[error("the guest has gone before it answered")]
    Gone,
    /// The guest has such a file already.
    #[error("the guest has such a file already")]
    Exists,
    /// The guest's disk is full.
    #[error("the guest's disk is full")]
    DiskFull,
    /// The guest has no such adapter.
    #[error("the guest has no such network adapter, or no driver for it")]
    NoAdapter,
    /// The host could not read what the guest was to get.
    #[error("{0}")]
    Source(String),
    /// A text is too long, empty or has what it may not have.
    #[error("{0}")]
    Text(String),
}

/// The services of one machine.
pub struct Integration {
    shutdown: Arc<Provider<ShutdownService>>,
    time_sync: Arc<Provider<TimeSyncService>>,
    heartbeat: Arc<Provider<HeartbeatService>>,
    key_value: Arc<Provider<KeyValueService>>,
    backup: Arc<Provider<BackupService>>,
    file_copy: Arc<Provider<FileCopyService>>,
}

/// A file for the guest.
pub struct File {
    /// Where it goes: an absolute path.
    pub path: String,
    /// Its length.
    pub size: u64,
    /// What is in it.
    pub contents: Box<dyn Read + Send>,
    /// Whether a file that is there is overwritten.
    pub overwrite: bool,
}

/// The guest's file systems stand still for as long as this lives.
pub struct Frozen<'a>(&'a Integration);

impl Frozen<'_> {
    /// Lets them go on.
    ///
    /// # Errors
    /// When the guest does not say that they do: what was copied meanwhile may be a mixture.
    pub fn thaw(self) -> Result<(), AskError> {
        let integration = self.0;
        std::mem::forget(self);
        integration.ask(ServiceKind::Backup, &integration.backup, backup::Wish::Thaw, PATIENCE)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let Self(integration) = self;
        let thawed = integration.ask(ServiceKind::Backup, &integration.backup, backup::Wish::Thaw, PATIENCE);
        if let Err(error) = thawed {
            tracing::error!(%error, "the guest's file systems are not known to go on");
        }
    }
}

impl Integration {
    /// Services that nobody has been offered yet, with their rows in `registry`.
    ///
    /// # Errors
    /// When the host gives no eventfd.
    pub fn new(clock: &Arc<dyn Clock>, time: Arc<dyn TimeSource>, registry: &Registry) -> io::Result<Self> {
        let at = (clock, registry);
        Ok(Self {
            shutdown: add(
                ServiceKind::Shutdown,
                (shutdown::INTERFACE, shutdown::INSTANCE),
                ShutdownService::default(),
                at,
            )?,
            time_sync: add(
                ServiceKind::TimeSync,
                (time_sync::INTERFACE, time_sync::INSTANCE),
                TimeSyncService::new(time),
                at,
            )?,
            heartbeat: add(
                ServiceKind::Heartbeat,
                (heartbeat::INTERFACE, heartbeat::INSTANCE),
                HeartbeatService::default(),
                at,
            )?,
            key_value: add(
                ServiceKind::KeyValue,
                (key_value::INTERFACE, key_value::INSTANCE),
                KeyValueService::default(),
                at,
            )?,
            backup: add(
                ServiceKind::Backup,
                (backup::INTERFACE, backup::INSTANCE),
                BackupService::default(),
                at,
            )?,
            file_copy: add(
                ServiceKind::FileCopy,
                (file_copy::INTERFACE, file_copy::INSTANCE),
                FileCopyService::default(),
                at,
            )?,
        })
    }

    /// Offers a service on `bus`.
    ///
    /// # Errors
    /// When the bus is full, or has it already.
    pub fn enable(&self, service: ServiceKind, bus: &Server) -> Result<(), OfferError> {
        bus.offer(self.provider(service).device())
    }

    /// Takes a service away from `bus`. False if it was not there.
    pub fn disable(&self, service: ServiceKind, bus: &Server) -> bool {
        bus.rescind(self.provider(service).instance())
    }

    fn provider(&self, service: ServiceKind) -> Arc<dyn AnyProvider> {
        match service {
            ServiceKind::Shutdown => Arc::clone(&self.shutdown) as Arc<_>,
            ServiceKind::TimeSync => Arc::clone(&self.time_sync) as Arc<_>,
            ServiceKind::Heartbeat => Arc::clone(&self.heartbeat) as Arc<_>,
            ServiceKind::KeyValue => Arc::clone(&self.key_value) as Arc<_>,
            ServiceKind::Backup => Arc::clone(&self.backup) as Arc<_>,
            ServiceKind::FileCopy => Arc::clone(&self.file_copy) as Arc<_>,
        }
    }

    /// How the services are, of which those in `enabled` are offered.
    pub fn status(&self, enabled: Services) -> Vec<ServiceStatus> {
        let status = |service: ServiceKind| {
            let Contact { state, versions, silence } = self.provider(service).contact();
            let applications = match service {
                // What a guest has said that is not heard any more is past.
                ServiceKind::Heartbeat if state == State::Ok => {
                    self.heartbeat.with(|service| service.applications())
                }
                _ => None,
            };
            ServiceStatus {
                applications,
                service,
                state: if enabled.contains(service) { state } else { State::Disabled },
                version: versions.map(|(_, version)| version.to_string()),
                last_contact_ms: silence.map(|silence| silence / 1_000_000),
            }
        };
        ServiceKind::ALL.map(status).into()
    }

    /// Wants something of the guest and waits until it is done.
    fn ask<S: Asked>(
        &self,
        service: ServiceKind,
        provider: &Provider<S>,
        wish: S::Wish,
        patience: Duration,
    ) -> Result<(), AskError> {
        match provider.contact().state {
            State::Ok | State::Lost => {}
            state => return Err(AskError::Unavailable(service, state.text())),
        }
        match provider.ask(wish, patience) {
            None => Err(AskError::Timeout),
            Some(Outcome::Done) => Ok(()),
            Some(Outcome::Refused(file_copy::STATUS_EXISTS)) => Err(AskError::Exists),
            Some(Outcome::Refused(file_copy::STATUS_DISK_FULL)) => Err(AskError::DiskFull),
            Some(Outcome::Refused(addresses::STATUS_NO_ADAPTER)) => Err(AskError::NoAdapter),
            Some(Outcome::Refused(status)) => Err(AskError::Refused(status)),
            Some(Outcome::Failed(reason)) => Err(AskError::Source(reason)),
            Some(Outcome::Gone) => Err(AskError::Gone),
        }
    }

    /// Asks the guest's system to power off, restart or hibernate; with `force`, whatever its programs say. On return
    /// it has said that it will.
    ///
    /// # Errors
    /// When the guest's driver is not there, refuses or is silent.
    pub fn shut_down(&self, what: Shutdown, force: bool) -> Result<(), AskError> {
        self.ask(ServiceKind::Shutdown, &self.shutdown, shutdown::Wish(what, force), PATIENCE)
    }

    /// Has the guest set its clock at once, if it has the driver for that: its time has stood still.
    pub fn tell_time(&self) {
        self.time_sync.with(TimeSyncService::set_clock);
        self.time_sync.wake();
    }

    /// Puts a pair into the pool of the host.
    ///
    /// # Errors
    /// When it is too long, or the guest's program is not there, refuses or is silent.
    pub fn set_key(&self, key: &str, value: &str) -> Result<(), AskError> {
        check("a key", key, KEY_UNITS, false)?;
        check("a value", value, VALUE_UNITS, true)?;
        self.exchange(key_value::Wish::Set(key.to_owned(), value.to_owned()))
    }

    /// Takes a pair from the pool of the host.
    ///
    /// # Errors
    /// As of [`Self::set_key`]; also when there is no such pair.
    pub fn delete_key(&self, key: &str) -> Result<(), AskError> {
        check("a key", key, KEY_UNITS, false)?;
        self.exchange(key_value::Wish::Delete(key.to_owned()))
    }

    /// Reads all pairs.
    ///
    /// # Errors
    /// When the guest's program is not there, refuses or is silent.
    pub fn key_values(&self) -> Result<KeyValues, AskError> {
        self.exchange(key_value::Wish::Read)?;
        Ok(self.key_value.with(|service| service.known().clone()))
    }

    /// The addresses of the guest's adapter with the MAC address `mac`, six bytes in hexadecimal with colons between.
    ///
    /// # Errors
    /// When the guest's program is not there, refuses, also for it knows no such adapter, or is silent.
    pub fn addresses(&self, mac: &str) -> Result<Addresses, AskError> {
        check("an address", mac, ADAPTER_UNITS, false)?;
        self.exchange(key_value::Wish::Addresses(mac.to_owned()))?;
        // Somebody else may have asked since, with less luck.
        self.key_value.with(|service| service.addresses(mac).cloned()).ok_or(AskError::NoAdapter)
    }

    /// Has the guest's adapter that is the VMBus device `instance` be as `wanted`, now and after restarts.
    ///
    /// # Errors
    /// When that does not do, or the guest's program is not there, refuses or is silent.
    pub fn set_addresses(&self, instance: Guid, wanted: &Addresses) -> Result<(), AskError> {
        if let Some(complaint) = addresses::complaint(wanted) {
            return Err(AskError::Text(complaint));
        }
        let wish = key_value::Wish::SetAddresses(format!("{{{instance}}}"), Box::new(wanted.clone()));
        self.ask(ServiceKind::KeyValue, &self.key_value, wish, SET_ADDRESSES)
    }

    fn exchange(&self, wish: key_value::Wish) -> Result<(), AskError> {
        self.ask(ServiceKind::KeyValue, &self.key_value, wish, PATIENCE)
    }

    /// Makes the guest's file systems stand still, with all that programs have written on the disks.
    ///
    /// # Errors
    /// When the guest's program is not there, refuses or is silent. A freeze that comes after all is undone.
    pub fn freeze(&self) -> Result<Frozen<'_>, AskError> {
        self.ask(ServiceKind::Backup, &self.backup, backup::Wish::Check, PATIENCE)?;
        self.ask(ServiceKind::Backup, &self.backup, backup::Wish::Freeze, FREEZE)?;
        Ok(Frozen(self))
    }

    /// Puts a file into the guest. Folders that are missing are made.
    ///
    /// # Errors
    /// When the path does not do, the guest has the file already or no room for it, its program is not there, refuses
    /// or is silent; or `file` cannot be read. Nothing of the file stays in the guest then.
    pub fn copy_file(&self, file: File) -> Result<(), AskError> {
        let File { path, size, contents, overwrite } = file;
        let (folder, name) = match path.rsplit_once('/') {
            Some((folder, name)) if path.starts_with('/') && !name.is_empty() => (folder, name),
            _ => return Err(AskError::Text(format!("{path}: is no absolute path of a file"))),
        };
        check("a file's name", name, NAME_UNITS, false)?;
        check("a folder's name", folder, NAME_UNITS - 1, true)?;
        // Guests look for folders up to the last slash.
        let (name, folder) = (name.to_owned(), format!("{folder}/"));
        let patience = COPY + Duration::from_secs(size / SLOWEST);
        let wish = file_copy::Wish { name, folder, size, contents, overwrite };
        self.ask(ServiceKind::FileCopy, &self.file_copy, wish, patience)
    }
}

/// A service with its row in the device table.
fn add<S: Service>(
    kind: ServiceKind,
    identity: (vmbus::Guid, vmbus::Guid),
    service: S,
    (clock, registry): (&Arc<dyn Clock>, &Registry),
) -> io::Result<Arc<Provider<S>>> {
    registry.owner(
        kind.name(),
        Kind::Synthetic,
        |provider: &Provider<S>| describe(&provider.contact()),
        |counters| Provider::new(kind.name(), identity, service, Arc::clone(clock), counters).map(Arc::new),
    )
}

fn describe(contact: &Contact) -> DeviceState {
    let text = match contact.versions {
        Some((_, version)) => format!("{}, version {version}", contact.state.text()),
        None => contact.state.text().to_owned(),
    };
    DeviceState::with_driver(text, contact.state != State::NoContact)
}

fn check(what: &str, text: &str, most: usize, may_be_empty: bool) -> Result<(), AskError> {
    let complaint = match text::complaint(what, text, most) {
        None if text.is_empty() && !may_be_empty => Some(format!("{what} is not empty")),
        complaint => complaint,
    };
    complaint.map_or(Ok(()), |complaint| Err(AskError::Text(complaint)))
}
