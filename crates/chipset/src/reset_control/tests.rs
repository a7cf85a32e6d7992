use proptest::prelude::*;

use super::*;
use crate::power::tests::Power;

#[test]
fn the_rising_reset_bit_resets_once() {
    let power = Power::new();
    let mut register = ResetControl::new(power.clone());
    register.port_write(PORT, &[0x02]);
    assert_eq!(power.resets(), 0);
    register.port_write(PORT, &[RESET]);
    register.port_write(PORT, &[RESET]);
    assert_eq!(power.resets(), 1);
    let mut data = [0xff];
    register.port_read(PORT, &mut data);
    assert_eq!(data, [RESET]);
}

proptest! {
    #[test]
    fn random_accesses_never_panic(values in prop::collection::vec(any::<[u8; 4]>(), 0..50)) {
        let mut register = ResetControl::new(Power::new());
        for mut value in values {
            register.port_write(PORT, &value);
            register.port_read(PORT, &mut value);
        }
    }
}
