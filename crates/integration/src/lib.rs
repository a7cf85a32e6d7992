//! Integration services: the host's side of what makes a guest a good guest.
//!
//! ```text
//!   hv_utils                     provider (one thread per open channel)
//!   negotiate ◀────────────────  conversation: versions, then one request at a time
//!   answer    ────────────────▶    │
//!                                  ├─ shutdown    power off, restart, hibernate
//!                                  ├─ time_sync   the time of day
//!                                  ├─ heartbeat   is the guest alive?
//!                                  └─ key_value   strings for each other
//! ```
//!
//! Each service is a device of the VMBus; the guest's answers are data of an adversary and only ever change what
//! is reported of that guest.
//!
//! Not done: backup (VSS), file copy, dynamic memory, Hyper-V sockets, injection of IP addresses.
#![forbid(unsafe_code)]

mod conversation;
mod heartbeat;
mod key_value;
mod message;
mod provider;
mod services;
mod shutdown;
#[cfg(test)]
mod tests;
mod time_sync;

use std::io;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use clock::Clock;
use counters::{Kind, Registry};
use serde::{Deserialize, Serialize};
use vmbus::{OfferError, Server};

pub use conversation::State;
pub use key_value::KeyValues;
pub use message::Version;
pub use services::{ServiceKind, Services, UnknownService};
pub use shutdown::Shutdown;
pub use time_sync::TimeSource;

use conversation::Service;
use heartbeat::HeartbeatService;
use key_value::{KEY_UNITS, KeyValueService, VALUE_UNITS};
use provider::{Contact, Provider, Shared};
use shutdown::ShutdownService;
use time_sync::TimeSyncService;

/// How long a guest may take to answer a request that somebody waits for.
const PATIENCE: Duration = Duration::from_secs(15);

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
    #[error("the guest refuses: status {0:#010x}")]
    Refused(u32),
    /// It has gone, or its driver.
    #[error("the guest has gone before it answered")]
    Gone,
    /// A key or a value is too long, or a key is empty.
    #[error("{0}")]
    Text(String),
}

/// The services of one machine.
pub struct Integration {
    shutdown: Arc<Provider<ShutdownService>>,
    time_sync: Arc<Provider<TimeSyncService>>,
    heartbeat: Arc<Provider<HeartbeatService>>,
    key_value: Arc<Provider<KeyValueService>>,
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
        })
    }

    /// Offers a service on `bus`.
    ///
    /// # Errors
    /// When the bus is full, or has it already.
    pub fn enable(&self, service: ServiceKind, bus: &Server) -> Result<(), OfferError> {
        bus.offer(match service {
            ServiceKind::Shutdown => Arc::new(Shared(Arc::clone(&self.shutdown))),
            ServiceKind::TimeSync => Arc::new(Shared(Arc::clone(&self.time_sync))),
            ServiceKind::Heartbeat => Arc::new(Shared(Arc::clone(&self.heartbeat))),
            ServiceKind::KeyValue => Arc::new(Shared(Arc::clone(&self.key_value))),
        })
    }

    /// Takes a service away from `bus`. False if it was not there.
    pub fn disable(&self, service: ServiceKind, bus: &Server) -> bool {
        bus.rescind(match service {
            ServiceKind::Shutdown => self.shutdown.instance(),
            ServiceKind::TimeSync => self.time_sync.instance(),
            ServiceKind::Heartbeat => self.heartbeat.instance(),
            ServiceKind::KeyValue => self.key_value.instance(),
        })
    }

    /// How the services are, of which those in `enabled` are offered.
    pub fn status(&self, enabled: Services) -> Vec<ServiceStatus> {
        let status = |service: ServiceKind| {
            let Contact { state, versions, silence } = self.contact(service);
            ServiceStatus {
                service,
                state: if enabled.contains(service) { state } else { State::Disabled },
                version: versions.map(|(_, version)| version.to_string()),
                last_contact_ms: silence.map(|silence| silence / 1_000_000),
            }
        };
        ServiceKind::ALL.map(status).into()
    }

    fn contact(&self, service: ServiceKind) -> Contact {
        match service {
            ServiceKind::Shutdown => self.shutdown.contact(),
            ServiceKind::TimeSync => self.time_sync.contact(),
            ServiceKind::Heartbeat => self.heartbeat.contact(),
            ServiceKind::KeyValue => self.key_value.contact(),
        }
    }

    fn available(&self, service: ServiceKind) -> Result<(), AskError> {
        match self.contact(service).state {
            State::Ok | State::Lost => Ok(()),
            state => Err(AskError::Unavailable(service, state.text())),
        }
    }

    /// Asks the guest's system to power off, restart or hibernate; with `force`, whatever its programs say. On return
    /// it has said that it will.
    ///
    /// # Errors
    /// When the guest's driver is not there, refuses or is silent.
    pub fn shut_down(&self, what: Shutdown, force: bool) -> Result<(), AskError> {
        self.available(ServiceKind::Shutdown)?;
        let outcome = self.shutdown.ask(
            PATIENCE,
            |service| service.ask(what, force),
            ShutdownService::outcome,
            ShutdownService::withdraw,
        );
        match outcome {
            None => Err(AskError::Timeout),
            Some(shutdown::Outcome::Accepted) => Ok(()),
            Some(shutdown::Outcome::Refused(status)) => Err(AskError::Refused(status)),
            Some(shutdown::Outcome::Gone) => Err(AskError::Gone),
        }
    }

    /// Puts a pair into the pool of the host.
    ///
    /// # Errors
    /// When it is too long, or the guest's program is not there, refuses or is silent.
    pub fn set_key(&self, key: &str, value: &str) -> Result<(), AskError> {
        check("a key", key, KEY_UNITS)?;
        check("a value", value, VALUE_UNITS)?;
        self.exchange(|service| service.set(key, value))
    }

    /// Takes a pair from the pool of the host.
    ///
    /// # Errors
    /// As of [`Self::set_key`]; also when there is no such pair.
    pub fn delete_key(&self, key: &str) -> Result<(), AskError> {
        check("a key", key, KEY_UNITS)?;
        self.exchange(|service| service.delete(key))
    }

    /// Reads all pairs.
    ///
    /// # Errors
    /// When the guest's program is not there, refuses or is silent.
    pub fn key_values(&self) -> Result<KeyValues, AskError> {
        self.exchange(KeyValueService::read)?;
        Ok(self.key_value.with(|service| service.known().clone()))
    }

    fn exchange(&self, ask: impl FnOnce(&mut KeyValueService) -> u64) -> Result<(), AskError> {
        self.available(ServiceKind::KeyValue)?;
        let outcome = self.key_value.ask(PATIENCE, ask, KeyValueService::outcome, KeyValueService::withdraw);
        match outcome {
            None => Err(AskError::Timeout),
            Some(key_value::Outcome::Done) => Ok(()),
            Some(key_value::Outcome::Refused(status)) => Err(AskError::Refused(status)),
            Some(key_value::Outcome::Gone) => Err(AskError::Gone),
        }
    }
}

/// A service with its row in the device table, each of which needs the other.
fn add<S: Service>(
    kind: ServiceKind,
    identity: (vmbus::Guid, vmbus::Guid),
    service: S,
    (clock, registry): (&Arc<dyn Clock>, &Registry),
) -> io::Result<Arc<Provider<S>>> {
    let slot = Arc::new(OnceLock::<Weak<Provider<S>>>::new());
    let state = Arc::clone(&slot);
    let counters = registry.device(kind.name(), Kind::Synthetic, move || {
        let provider = state.get().and_then(Weak::upgrade);
        provider.map_or_else(|| "gone".to_owned(), |provider| describe(&provider.contact()))
    });
    let provider = Arc::new(Provider::new(kind.name(), identity, service, Arc::clone(clock), counters)?);
    slot.get_or_init(|| Arc::downgrade(&provider));
    Ok(provider)
}

fn describe(contact: &Contact) -> String {
    match contact.versions {
        Some((_, version)) => format!("{}, version {version}", contact.state.text()),
        None => contact.state.text().to_owned(),
    }
}

fn check(what: &str, text: &str, most: usize) -> Result<(), AskError> {
    let units = text.encode_utf16().count();
    if units > most {
        return Err(AskError::Text(format!("{what} of {units} characters is too long: at most {most}")));
    }
    if text.contains('\0') {
        return Err(AskError::Text(format!("{what} has no NUL in it")));
    }
    if units == 0 && what == "a key" {
        return Err(AskError::Text("a key is not empty".to_owned()));
    }
    Ok(())
}
