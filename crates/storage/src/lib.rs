//! Disks: image formats, and the SCSI and ATAPI command sets.
