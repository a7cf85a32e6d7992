//! HvCallPostMessage and HvCallSignalEvent.

use tlfs::HvStatus;
use tlfs::hypercall::{CONNECTION_ID_MASK, CallCode, PostMessage, SignalEvent};
use tlfs::message::MessageType;

use super::call::Hypercall;
use crate::features::Feature;

pub(super) const POST_MESSAGE: Hypercall = Hypercall {
    code: CallCode::POST_MESSAGE,
    name: "post_message",
    needs: &[Feature::PostMessages],
    header: size_of::<PostMessage>(),
    variable: false,
    output: 0,
    list: None,
    run: |call| {
        let message: PostMessage = call.header()?;
        let kind = MessageType(message.message_type);
        let size = usize::try_from(message.payload_size).unwrap_or(usize::MAX);
        let payload = message.payload.get(..size).ok_or(HvStatus::INVALID_PARAMETER)?;
        if message.reserved != 0 || kind == MessageType::NONE || kind.is_hypervisor() {
            return Err(HvStatus::INVALID_PARAMETER);
        }
        let port = call.enlightenment.ports.message(connection(message.connection_id)?)?;
        port.post(message.connection_id, message.message_type, payload)
    },
};

pub(super) const SIGNAL_EVENT: Hypercall = Hypercall {
    code: CallCode::SIGNAL_EVENT,
    name: "signal_event",
    needs: &[Feature::SignalEvents],
    header: size_of::<SignalEvent>(),
    variable: false,
    output: 0,
    list: None,
    run: |call| {
        let event: SignalEvent = call.header()?;
        if event.reserved != 0 {
            return Err(HvStatus::INVALID_PARAMETER);
        }
        let port = call.enlightenment.ports.event(connection(event.connection_id)?)?;
        if event.flag_number >= port.flag_count() {
            return Err(HvStatus::INVALID_PARAMETER);
        }
        port.signal(event.flag_number);
        Ok(())
    },
};

fn connection(id: u32) -> Result<u32, HvStatus> {
    match id & !CONNECTION_ID_MASK {
        0 => Ok(id),
        _ => Err(HvStatus::INVALID_CONNECTION_ID),
    }
}
