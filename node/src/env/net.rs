//! Connections to other processes.

use flotilla_security::{Keyed, Trust};
use tonic::transport::Endpoint;

/// A channel to an endpoint that is dialled when it is first used, and anew when it breaks; shows what `trust` says.
pub fn connect_lazy(endpoint: &Endpoint, trust: &Trust) -> Keyed {
    #[cfg(any(test, feature = "sim"))]
    if let Some(world) = super::sim::world() {
        return trust.over((world.connect)(endpoint));
    }
    trust.connect_lazy(endpoint)
}
