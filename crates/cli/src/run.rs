//! `bodhi run`.

use std::process::ExitCode;

use machine::End;
use worker::Report;

use crate::arguments::RunArguments;
use crate::{BAD_INPUT, FAILED, complain, say};

pub(crate) fn run(arguments: &RunArguments) -> ExitCode {
    let result = arguments
        .configuration()
        .map_err(worker::Error::from)
        .and_then(|config| worker::run(config, &|choice| say(format_args!("bodhi: processor: {choice}\n"))));
    match result {
        Ok(report) => tell(&report),
        Err(error) => {
            complain(&error);
            let bad_input = matches!(error, worker::Error::Input(_));
            ExitCode::from(if bad_input { BAD_INPUT } else { FAILED })
        }
    }
}

fn tell(report: &Report) -> ExitCode {
    say(format_args!("{}", worker::device_table(&report.devices)));
    say(format_args!("{}", worker::processor_table(&report.counts)));
    match &report.end {
        End::PoweredOff => ExitCode::SUCCESS,
        End::DebugExit(code) => {
            say(format_args!("bodhi: the guest has ended the machine with exit code {code}\n"));
            ExitCode::from(*code)
        }
        End::Stopped if report.forced => {
            say(format_args!(
                "bodhi: the guest did not power off when it was asked to, and has been stopped\n"
            ));
            ExitCode::from(FAILED)
        }
        End::Stopped => {
            say(format_args!("bodhi: the machine has been stopped\n"));
            ExitCode::SUCCESS
        }
        End::Failed(failure) => {
            complain(failure);
            ExitCode::from(FAILED)
        }
    }
}
