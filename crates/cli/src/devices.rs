//! `bodhi devices`.

use std::io::{self, Write};
use std::process::ExitCode;

use machine::config::InputError;
use worker::control::{Client, ClientError, Devices, Reply, Request};

use crate::arguments::DevicesArguments;
use crate::{BAD_INPUT, FAILED, complain};

pub(crate) fn devices(arguments: &DevicesArguments) -> ExitCode {
    let Some(path) = arguments.api.as_ref().or(arguments.name.as_ref()) else {
        complain(&InputError::bare("api", "is required: which machine?"));
        return ExitCode::from(BAD_INPUT);
    };
    let mut client = match Client::connect(path) {
        Ok(client) => client,
        Err(error) => {
            complain(&InputError::io("api", path, &error));
            return ExitCode::from(BAD_INPUT);
        }
    };
    match ask(&mut client).and_then(|devices| text(&devices, arguments.json)) {
        Ok(text) => {
            // Nobody may be reading any more, as behind a pager that has been left.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&error);
            ExitCode::from(FAILED)
        }
    }
}

fn text(devices: &Devices, json: bool) -> Result<String, ClientError> {
    if json {
        return Ok(serde_json::to_string_pretty(devices)? + "\n");
    }
    Ok(worker::device_table(&devices.devices) + &worker::processor_table(&devices.counts))
}

fn ask(client: &mut Client) -> Result<Devices, ClientError> {
    match client.ask(&Request::Devices {})? {
        Reply::Devices(devices) => Ok(devices),
        other => Err(ClientError::Refused(format!("an answer to another question: {other:?}"))),
    }
}
