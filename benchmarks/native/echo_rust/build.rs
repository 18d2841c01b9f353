//! Generates the service from the one contract; GOOGLE_PROTOS is the folder that holds google/rpc/status.proto.

use std::{env, error::Error};

fn main() -> Result<(), Box<dyn Error>> {
    let googleapis = env::var("GOOGLE_PROTOS").map_err(|_| "GOOGLE_PROTOS is not set; use benchmarks/native/build")?;
    let contract = format!("{}/../../../proto", env::var("CARGO_MANIFEST_DIR")?);
    println!("cargo:rerun-if-env-changed=GOOGLE_PROTOS");
    tonic_prost_build::configure()
        .compile_protos(&[&format!("{contract}/volcast/v1/inference.proto")], &[&contract, &googleapis])?;
    Ok(())
}
