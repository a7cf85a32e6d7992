use proptest::prelude::*;

use super::*;
use crate::power::tests::Power;

#[test]
fn a20_reads_back_and_bit_0_resets() {
    let power = Power::new();
    let mut port = Port92::new(power.clone());
    let mut data = [0];
    port.port_read(PORT, &mut data);
    assert_eq!(data, [A20]);
    port.port_write(PORT, &[A20]);
    assert_eq!(power.resets(), 0);
    port.port_write(PORT, &[A20 | FAST_RESET]);
    assert_eq!(power.resets(), 1);
}

proptest! {
    #[test]
    fn random_accesses_never_panic(values in prop::collection::vec(any::<[u8; 4]>(), 0..50)) {
        let mut port = Port92::new(Power::new());
        for mut value in values {
            port.port_write(PORT, &value);
            port.port_read(PORT, &mut value);
        }
    }
}
