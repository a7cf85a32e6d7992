//! `bodhi net`.

use std::process::ExitCode;

use machine::NetStatus;
use machine::config::{NetConfig, PortConfig};
use worker::control::{Reply, Request};

use crate::arguments::{NetCommand, Target};
use crate::client::{self, Error, absolute, connect, unexpected};

const ADAPTER: Option<&str> = Some("network adapter");

pub(crate) fn net(command: &NetCommand) -> ExitCode {
    client::finish(match command {
        NetCommand::Attach(target) => ask(target, ADAPTER, |word| {
            let net: NetConfig = word.parse().map_err(|reason| Error::Input(word, reason))?;
            let capture = net.port.capture.as_deref().map(absolute).transpose()?;
            Ok(Request::AttachNet { net: NetConfig { port: PortConfig { capture, ..net.port }, ..net } })
        }),
        NetCommand::Detach(target) => ask(target, ADAPTER, |net| Ok(Request::DetachNet { net })),
        NetCommand::Up(target) => ask(target, ADAPTER, |net| Ok(Request::SetLink { net, up: true })),
        NetCommand::Down(target) => ask(target, ADAPTER, |net| Ok(Request::SetLink { net, up: false })),
        NetCommand::List(target) => ask(target, None, |_| Ok(Request::Nets {})),
    })
}

fn ask(
    target: &Target,
    what: Option<&'static str>,
    request: impl FnOnce(String) -> Result<Request, Error>,
) -> Result<(), Error> {
    let (api, word) = target.split(what)?;
    let request = request(word)?;
    match connect(&api)?.ask(&request)? {
        Reply::Attached(name) => println!("{name}"),
        Reply::Nets(nets) => nets.iter().for_each(|net| println!("{}", line(net))),
        Reply::Done => {}
        other => return Err(unexpected(&other)),
    }
    Ok(())
}

fn line(NetStatus { name, mac, nic, config }: &NetStatus) -> String {
    format!("{name:<10}  {mac}  {nic:<9}  {config}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_is_a_line() {
        let status = NetStatus {
            name: "network0".to_owned(),
            mac: "00:15:5d:00:00:01".to_owned(),
            nic: machine::config::Nic::Legacy,
            config: "isolated,link=down".parse().unwrap(),
        };
        assert_eq!(line(&status), "network0    00:15:5d:00:00:01  legacy     isolated,link=down");
    }
}
