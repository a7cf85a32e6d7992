//! `bodhi devices`.

use std::io::{self, Write};
use std::process::ExitCode;

use machine::config::InputError;
use worker::control::{ClientError, Devices, Reply, Request};

use crate::arguments::DevicesArguments;
use crate::client::{Error, connect, finish, unexpected};

pub(crate) fn devices(arguments: &DevicesArguments) -> ExitCode {
    finish(show(arguments))
}

fn show(DevicesArguments { name, api, json }: &DevicesArguments) -> Result<(), Error> {
    let path = api.as_ref().or(name.as_ref());
    let path = path.ok_or_else(|| InputError::bare("api", "is required: which machine?"))?;
    let text = match connect(path)?.ask(&Request::Devices {})? {
        Reply::Devices(devices) => text(&devices, *json)?,
        other => return Err(unexpected(&other)),
    };
    // Nobody may be reading any more, as behind a pager that has been left.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn text(devices: &Devices, json: bool) -> Result<String, ClientError> {
    if json {
        return Ok(serde_json::to_string_pretty(devices)? + "\n");
    }
    Ok(worker::device_table(&devices.devices) + &worker::processor_table(&devices.counts))
}
