//! HvCallSendSyntheticClusterIpi and its Ex form: fixed interrupts to a set of processors.

use tlfs::hypercall::{CallCode, InputVtl, SendSyntheticClusterIpi, SendSyntheticClusterIpiEx};
use tlfs::{FIRST_VECTOR, HvStatus};

use super::call::{Call, Hypercall};
use super::vp_set;
use crate::features::Feature;

pub(super) const SEND_IPI: Hypercall = Hypercall {
    code: CallCode::SEND_SYNTHETIC_CLUSTER_IPI,
    name: "send_synthetic_cluster_ipi",
    needs: &[Feature::ClusterIpi],
    header: size_of::<SendSyntheticClusterIpi>(),
    variable: false,
    output: 0,
    list: None,
    run: |call| {
        let header: SendSyntheticClusterIpi = call.header()?;
        let vector = check(header.vector, header.target_vtl)?;
        send(call, vector, &vp_set::of_mask(call, header.processor_mask));
        Ok(())
    },
};

pub(super) const SEND_IPI_EX: Hypercall = Hypercall {
    code: CallCode::SEND_SYNTHETIC_CLUSTER_IPI_EX,
    name: "send_synthetic_cluster_ipi_ex",
    needs: &[Feature::ClusterIpi, Feature::ExProcessorMasks],
    header: size_of::<SendSyntheticClusterIpiEx>(),
    variable: true,
    output: 0,
    list: None,
    run: |call| {
        let header: SendSyntheticClusterIpiEx = call.header()?;
        let vector = check(header.vector, header.target_vtl)?;
        send(call, vector, &vp_set::of_header(call, header.processor_set)?);
        Ok(())
    },
};

fn check(vector: u32, vtl: InputVtl) -> Result<u8, HvStatus> {
    super::processors::own_vtl(vtl)?;
    let vector = u8::try_from(vector).ok().filter(|vector| *vector >= FIRST_VECTOR);
    vector.ok_or(HvStatus::INVALID_PARAMETER)
}

fn send(call: &Call<'_>, vector: u8, processors: &[u32]) {
    for &vp in processors {
        call.enlightenment.interrupt(vp, vector);
    }
}
