//! Status codes of hypercalls.

use core::fmt;

/// HV_STATUS.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HvStatus(pub u16);

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        impl HvStatus {
            $($(#[$doc])* pub const $name: Self = Self($value);)*
        }

        impl fmt::Debug for HvStatus {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    $($value => f.write_str(stringify!($name)),)*
                    other => write!(f, "HvStatus({other:#x})"),
                }
            }
        }
    };
}

statuses! {
    /// It has been done.
    SUCCESS = 0x00;
    /// No such hypercall.
    INVALID_HYPERCALL_CODE = 0x02;
    /// The hypercall input value is not valid: reserved bits, rep count, header size.
    INVALID_HYPERCALL_INPUT = 0x03;
    /// A parameter list is not aligned, crosses a page or lies outside memory.
    INVALID_ALIGNMENT = 0x04;
    /// A parameter is not valid.
    INVALID_PARAMETER = 0x05;
    /// The partition lacks a privilege.
    ACCESS_DENIED = 0x06;
    /// The partition is in the wrong state.
    INVALID_PARTITION_STATE = 0x07;
    /// Not permitted in this state.
    OPERATION_DENIED = 0x08;
    /// Memory is lacking.
    INSUFFICIENT_MEMORY = 0x0b;
    /// No such partition.
    INVALID_PARTITION_ID = 0x0d;
    /// No such processor.
    INVALID_VP_INDEX = 0x0e;
    /// The port has gone or is of another kind.
    INVALID_PORT_ID = 0x11;
    /// No such connection.
    INVALID_CONNECTION_ID = 0x12;
    /// No free message buffer.
    INSUFFICIENT_BUFFERS = 0x13;
    /// The processor is in the wrong state.
    INVALID_VP_STATE = 0x15;
    /// The target's SynIC does not accept messages or events.
    INVALID_SYNIC_STATE = 0x18;
    /// The value does not fit the register.
    INVALID_REGISTER_VALUE = 0x50;
    /// The virtual trust level does not exist or is in the wrong state.
    INVALID_VTL_STATE = 0x51;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_prints_its_name_or_its_number() {
        assert_eq!(format!("{:?}", HvStatus::INVALID_CONNECTION_ID), "INVALID_CONNECTION_ID");
        assert_eq!(format!("{:?}", HvStatus(0x77)), "HvStatus(0x77)");
    }
}
