//! `bodhi devices`.

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
    match ask(&mut client) {
        Ok(devices) if arguments.json => match serde_json::to_string_pretty(&devices) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                complain(&error);
                return ExitCode::from(FAILED);
            }
        },
        Ok(devices) => print!("{}", worker::device_table(&devices.devices)),
        Err(error) => {
            complain(&error);
            return ExitCode::from(FAILED);
        }
    }
    ExitCode::SUCCESS
}

fn ask(client: &mut Client) -> Result<Devices, ClientError> {
    match client.ask(&Request::Devices {})? {
        Reply::Devices(devices) => Ok(devices),
        other => Err(ClientError::Refused(format!("an answer to another question: {other:?}"))),
    }
}
