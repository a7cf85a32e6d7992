//! The integration services of a board.

use std::sync::{Arc, Weak};

use clock::Clock;
use counters::Registry;
use enlightenment::Enlightenment;
use integration::{Integration, TimeSource};
use processor::Partition;

use crate::Error;

/// The services, not offered to the guest yet.
pub(super) fn new(
    clock: &Arc<dyn Clock>,
    partition: &Arc<dyn Partition>,
    enlightenment: &Arc<Enlightenment>,
    registry: &Registry,
) -> Result<Arc<Integration>, Error> {
    let time = Arc::new(Time {
        clock: Arc::clone(clock),
        partition: Arc::downgrade(partition),
        enlightenment: Arc::downgrade(enlightenment),
    });
    Ok(Arc::new(Integration::new(clock, time, registry).map_err(Error::Integration)?))
}

/// The times that the guest is told. The board has the services; they refer to it weakly.
struct Time {
    clock: Arc<dyn Clock>,
    partition: Weak<dyn Partition>,
    enlightenment: Weak<Enlightenment>,
}

impl TimeSource for Time {
    fn wall(&self) -> u64 {
        self.clock.wall()
    }

    fn reference(&self) -> u64 {
        let kernel = self.partition.upgrade().and_then(|partition| partition.reference_time());
        kernel.or_else(|| Some(self.enlightenment.upgrade()?.reference_time())).unwrap_or(0)
    }
}
