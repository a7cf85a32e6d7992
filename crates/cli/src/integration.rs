//! `bodhi shutdown`, `bodhi copy`, `bodhi image backup`, `bodhi integration`,
//! `bodhi ip`, `bodhi pause` and `bodhi resume`.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use machine::config::{InputError, ServiceKind};
use machine::{Addresses, AskError, IntegrationStatus, Shutdown, State, Status};
use worker::control::{Client, ClientError, Reply, Request};

use crate::arguments::{CopyArguments, IntegrationArguments, IpArguments, ShutdownArguments, Target};
use crate::client::{Error, absolute, connect, done, finish, unexpected};

pub(crate) fn shutdown(arguments: &ShutdownArguments) -> ExitCode {
    finish(shut_down(arguments))
}

pub(crate) fn integration(arguments: &IntegrationArguments) -> ExitCode {
    finish(show_or_change(arguments))
}

pub(crate) fn copy(arguments: &CopyArguments) -> ExitCode {
    finish(copy_file(arguments))
}

pub(crate) fn back_up(target: &Target) -> ExitCode {
    finish(copy_disks(target))
}

pub(crate) fn ip(arguments: &IpArguments) -> ExitCode {
    finish(show_or_set_addresses(arguments))
}

pub(crate) fn pause(target: &Target) -> ExitCode {
    finish(ask(target, &Request::Pause {}))
}

pub(crate) fn resume(target: &Target) -> ExitCode {
    finish(ask(target, &Request::Resume {}))
}

fn ask(target: &Target, request: &Request) -> Result<(), Error> {
    let (api, _) = target.split(None)?;
    done(&mut connect(&api)?, request)
}

/// How often it is looked whether the guest has done what it said.
const LOOK: Duration = Duration::from_millis(20);

fn shut_down(arguments: &ShutdownArguments) -> Result<(), Error> {
    let ShutdownArguments { target, restart, hibernate, force, timeout } = arguments;
    let (api, _) = target.split(None)?;
    let mut client = connect(&api)?;
    let what = match (restart, hibernate) {
        (true, _) => Shutdown::Restart,
        (_, true) => Shutdown::Hibernate,
        _ => Shutdown::PowerOff,
    };
    let before = status(&mut client)?.map_or(0, |status| status.resets);
    done(&mut client, &Request::Shutdown { what, force: *force })?;
    if *timeout == 0 {
        return Ok(());
    }
    let end = Instant::now() + Duration::from_secs(*timeout);
    loop {
        // A worker that has gone has nothing left to do.
        match status(&mut client)? {
            None => return Ok(()),
            Some(status) if status.ended || (*restart && status.resets > before) => return Ok(()),
            Some(_) if Instant::now() > end => {
                return Err(Error::Late(if *restart { "the restart" } else { "the shutdown" }, *timeout));
            }
            Some(_) => thread::sleep(LOOK),
        }
    }
}

/// How the machine is; `None` if its worker has gone.
fn status(client: &mut Client) -> Result<Option<Status>, Error> {
    match client.ask(&Request::Status {}) {
        Ok(Reply::Status(status)) => Ok(Some(status)),
        Ok(other) => Err(unexpected(&other)),
        Err(ClientError::Io(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn copy_file(CopyArguments { file, to, api, overwrite }: &CopyArguments) -> Result<(), Error> {
    let (api, to) = match (api, to.split_once(":/")) {
        (Some(api), None) => (api.clone(), to.clone()),
        (None, Some((name, path))) if !name.is_empty() => (name.into(), format!("/{path}")),
        (Some(_), Some(_)) => return Err(InputError::new("api", to, "names a machine too").into()),
        _ => return Err(InputError::new("api", to, "is not NAME:/PATH: which machine?").into()),
    };
    let from = absolute(file)?;
    done(&mut connect(&api)?, &Request::CopyFile { from, to, overwrite: *overwrite })
}

fn copy_disks(target: &Target) -> Result<(), Error> {
    let (api, file) = target.split(Some("file"))?;
    let file = absolute(Path::new(&file))?;
    done(&mut connect(&api)?, &Request::BackUp { file })
}

fn show_or_change(arguments: &IntegrationArguments) -> Result<(), Error> {
    let IntegrationArguments { target, json, change } = arguments;
    let (api, _) = target.split(None)?;
    let mut client = connect(&api)?;
    let request = if let Some((key, value)) = &change.set {
        Request::SetKey { key: key.clone(), value: value.clone() }
    } else if let Some(key) = &change.delete {
        Request::DeleteKey { key: key.clone() }
    } else if let Some(service) = change.enable {
        Request::EnableService { service, on: true }
    } else if let Some(service) = change.disable {
        Request::EnableService { service, on: false }
    } else {
        let status = services(&mut client)?;
        let text = if *json {
            serde_json::to_string_pretty(&status).map_err(ClientError::from)? + "\n"
        } else {
            worker::integration_table(&status)
        };
        // Nobody may be reading any more, as behind a pager that has been left.
        let _ = std::io::stdout().write_all(text.as_bytes());
        return Ok(());
    };
    done(&mut client, &request)
}

fn services(client: &mut Client) -> Result<Box<IntegrationStatus>, Error> {
    match client.ask(&Request::Integration {})? {
        Reply::Integration(status) => Ok(status),
        other => Err(unexpected(&other)),
    }
}

fn show_or_set_addresses(arguments: &IpArguments) -> Result<(), Error> {
    let IpArguments { target, json, adapter, addresses, gateways, name_servers, dhcp } = arguments;
    let (api, _) = target.split(None)?;
    let wanted = Addresses {
        dhcp: *dhcp,
        addresses: addresses.clone(),
        gateways: gateways.clone(),
        name_servers: name_servers.clone(),
    };
    if wanted != Addresses::default() {
        let request = Request::SetAddresses { adapter: adapter.clone(), addresses: wanted };
        return done(&mut connect(&api)?, &request);
    }
    let mut status = services(&mut connect(&api)?)?;
    let key_value = status.services.iter().find(|service| service.service == ServiceKind::KeyValue);
    if let Some(service) = key_value.filter(|service| service.state != State::Ok) {
        let error = AskError::Unavailable(service.service, service.state.text());
        return Err(ClientError::Refused(error.to_string()).into());
    }
    if let Some(adapter) = adapter {
        status.adapters.retain(|status| status.device == *adapter);
    }
    let text = if *json {
        serde_json::to_string_pretty(&status.adapters).map_err(ClientError::from)? + "\n"
    } else {
        worker::address_table(&status.adapters)
    };
    // As above.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}
