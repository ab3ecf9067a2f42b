//! Asks the local network over mDNS, with a library of its own, so that no daemon is needed on the operator's machine.

use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::{Duration, Instant};

use mdns_sd::{DaemonEvent, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent};

use super::txt::Heard;
use crate::announce::SERVICE;

/// The most Pis that are listed: a crew has 64 at most, and anybody may announce.
const MAX_FOUND: usize = 256;

/// The most addresses of one Pi.
const MAX_ADDRESSES: usize = 16;

/// Why the network could not be asked.
#[derive(Debug, thiserror::Error)]
#[error(
    "the network cannot be asked over mDNS: {0}; see that this machine has a network (ip address), and that no firewall \
     takes UDP port 5353"
)]
pub struct MdnsError(#[from] mdns_sd::Error);

/// Listens for `time` at most. Blocks; what goes wrong on the way is said to `note`.
///
/// # Errors
/// If nothing can be sent or heard at all.
pub fn search(time: Duration, note: &mut dyn FnMut(&str)) -> Result<Vec<Heard>, MdnsError> {
    let until = Instant::now() + time;
    let daemon = ServiceDaemon::new()?;
    let troubles = daemon.monitor()?;
    let events = daemon.browse(&format!("{SERVICE}.local."))?;
    let mut found: BTreeMap<String, Heard> = BTreeMap::new();
    while let Ok(event) = events.recv_timeout(until.saturating_duration_since(Instant::now())) {
        match event {
            ServiceEvent::ServiceResolved(service) => {
                let heard = heard(&service);
                if found.len() < MAX_FOUND || found.contains_key(&service.fullname) {
                    found.insert(service.fullname.clone(), heard);
                }
            }
            ServiceEvent::ServiceRemoved(_, name) => {
                found.remove(&name);
            }
            // another library's enum, which may grow: what else it tells is its own progress
            _ => {}
        }
    }
    for trouble in troubles.try_iter() {
        if let DaemonEvent::Error(error) = trouble {
            note(&format!("mDNS: {error}"));
        }
    }
    // it ends with this process anyway
    let _ = daemon.shutdown();
    Ok(found.into_values().collect())
}

fn heard(service: &ResolvedService) -> Heard {
    let instance = service.fullname.split(&format!(".{SERVICE}")).next().unwrap_or_default();
    let mut addresses: Vec<SocketAddr> = service.addresses.iter().filter_map(|ip| address(ip, service.port)).collect();
    addresses.sort_by_key(|address| (link_local(address), address.is_ipv6(), *address));
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
    Heard::parse(instance, service.txt_properties.iter().map(|record| (record.key(), record.val())), addresses)
}

/// Nobody on the network is reached at a loopback address, and at a multicast one everybody is.
fn address(ip: &ScopedIp, port: u16) -> Option<SocketAddr> {
    let address = match ip {
        ScopedIp::V4(v4) => SocketAddr::V4(SocketAddrV4::new(*v4.addr(), port)),
        ScopedIp::V6(v6) => {
            // a link-local address means something only on the link where it was heard
            let scope = if v6.addr().is_unicast_link_local() { v6.scope_id().index } else { 0 };
            SocketAddr::V6(SocketAddrV6::new(*v6.addr(), port, 0, scope))
        }
        _ => return None,
    };
    let ip = address.ip();
    (!ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified()).then_some(address)
}

/// Whether it is of use on one link alone.
pub(super) fn link_local(address: &SocketAddr) -> bool {
    match address {
        SocketAddr::V4(v4) => v4.ip().is_link_local(),
        SocketAddr::V6(v6) => v6.ip().is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn addresses_of_nobody_are_left_out() {
        for ip in ["127.0.0.1", "::1", "224.0.0.251", "ff02::fb", "0.0.0.0", "::"] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(address(&ScopedIp::from(ip), 1), None, "{ip}");
        }
        for ip in ["10.0.0.1", "fe80::1", "fd00::1", "169.254.1.1"] {
            let ip: IpAddr = ip.parse().unwrap();
            let address = address(&ScopedIp::from(ip), 7).unwrap();
            assert_eq!((address.ip(), address.port()), (ip, 7));
            assert_eq!(link_local(&address), ip.to_string().starts_with("fe80") || ip.to_string().starts_with("169"));
        }
    }
}
