//! Connections to other processes.

use tonic::transport::{Channel, Endpoint};

/// A channel to an endpoint that is dialled when it is first used, and anew when it breaks.
pub fn connect_lazy(endpoint: &Endpoint) -> Channel {
    #[cfg(any(test, feature = "sim"))]
    if let Some(world) = super::sim::world() {
        return (world.connect)(endpoint);
    }
    endpoint.connect_lazy()
}
