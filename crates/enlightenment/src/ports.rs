//! Ports of the host and the connections by which a guest reaches them (TLFS, "Ports and Connections").
//! A signal is the hot path of every synthetic device: it costs a look-up under a shared lock.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use tlfs::HvStatus;
use tlfs::hypercall::CONNECTION_ID_MASK;

/// A port that receives messages of the guest (HvCallPostMessage). Called on processor threads.
pub trait MessagePort: Send + Sync {
    /// Takes a message. Its type is neither 0 nor one of the hypervisor's; the payload has at most 240
    /// bytes.
    ///
    /// # Errors
    /// The status that the hypercall returns: [`HvStatus::INSUFFICIENT_BUFFERS`] if the port has no room
    /// now, so that the guest tries again.
    fn post(&self, connection: u32, message_type: u32, payload: &[u8]) -> Result<(), HvStatus>;
}

/// A port that receives events of the guest (HvCallSignalEvent). Called on processor threads; must not
/// block.
pub trait EventPort: Send + Sync {
    /// The guest signals `flag`, which is below [`Self::flag_count`].
    fn signal(&self, flag: u16);

    /// How many flags the port has.
    fn flag_count(&self) -> u16 {
        1
    }
}

enum Port {
    Message(Arc<dyn MessagePort>),
    Event(Arc<dyn EventPort>),
}

/// The connections by their ids.
#[derive(Default)]
pub(crate) struct Ports(RwLock<BTreeMap<u32, Port>>);

impl Ports {
    pub fn connect_message(&self, id: u32, port: Arc<dyn MessagePort>) -> bool {
        self.connect(id, Port::Message(port))
    }

    pub fn connect_event(&self, id: u32, port: Arc<dyn EventPort>) -> bool {
        self.connect(id, Port::Event(port))
    }

    fn connect(&self, id: u32, port: Port) -> bool {
        let mut ports = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if id & !CONNECTION_ID_MASK != 0 || ports.contains_key(&id) {
            return false;
        }
        ports.insert(id, port);
        true
    }

    pub fn disconnect(&self, id: u32) -> bool {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&id).is_some()
    }

    /// The message port of connection `id`.
    pub fn message(&self, id: u32) -> Result<Arc<dyn MessagePort>, HvStatus> {
        match self.0.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
            Some(Port::Message(port)) => Ok(Arc::clone(port)),
            Some(Port::Event(_)) => Err(HvStatus::INVALID_PORT_ID),
            None => Err(HvStatus::INVALID_CONNECTION_ID),
        }
    }

    /// The event port of connection `id`.
    #[inline]
    pub fn event(&self, id: u32) -> Result<Arc<dyn EventPort>, HvStatus> {
        match self.0.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
            Some(Port::Event(port)) => Ok(Arc::clone(port)),
            Some(Port::Message(_)) => Err(HvStatus::INVALID_PORT_ID),
            None => Err(HvStatus::INVALID_CONNECTION_ID),
        }
    }
}
