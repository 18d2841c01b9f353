//! The messages and services of the contract, which the echo and the load generator share.

pub mod volcast {
    pub mod v1 {
        tonic::include_proto!("volcast.v1");
    }
}

pub mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}
