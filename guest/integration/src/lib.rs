//! The guest's side of the integration services that need a program: key-value exchange, backup, file copy.
//!
//! ```text
//!   host ── VMBus channel ── hv_utils ── /dev/vmbus/hv_kvp ── key_value   pools in /var/lib/hyperv, facts
//!                                        /dev/vmbus/hv_vss ── backup      FIFREEZE and FITHAW
//!                                        /dev/vmbus/hv_fcopy ─ file_copy  files
//!                           uio_hv_generic ── /dev/uioN ── uio ──┘         the same since Linux 6.10
//! ```
//!
//! The kernel's driver agrees with the host on versions, has UTF-8 on this side of it, and passes one request on at a
//! time. Layouts: Linux `include/uapi/linux/hyperv.h`. All numbers are little-endian.
//!
//! Not here: what the kernel does by itself (shutdown, heartbeat, time synchronization).

mod backup;
mod device;
mod fields;
mod file_copy;
mod freeze;
mod key_value;
pub mod uio;

pub use backup::Backup;
pub use device::{Service, serve};
pub use file_copy::FileCopy;
pub use key_value::KeyValue;

/// The status of what has been done.
pub(crate) const OK: u32 = 0;
/// The status of what has failed: E_FAIL.
pub(crate) const FAILED: u32 = 0x8000_4005;
