//! Generates the clients of sing-box's API and the messages of V2Ray's from `proto`, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in ["proto/daemon.proto", "proto/v2ray.proto"] {
        println!("cargo:rerun-if-changed={file}");
        let descriptors = protox::compile([file], ["proto"])?;
        tonic_prost_build::configure().build_server(false).compile_fds(descriptors)?;
    }
    Ok(())
}
