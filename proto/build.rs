//! Compiles the internal messages and, where the feature `grpc` asks for them, the services. protox is pure Rust, so that no
//! `protoc` is needed on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=carillon");
    let messages = [
        "carillon/link/v1/link.proto",
        "carillon/log/v1/record.proto",
        "carillon/lease/v1/lease.proto",
        "carillon/notice/v1/notice.proto",
        "carillon/engineio/v1/engineio.proto",
        "carillon/socketio/v1/record.proto",
        "carillon/status/v1/status.proto",
        "carillon/survey/v1/survey.proto",
    ];
    let messages = protox::compile(messages, ["."])?;
    prost_build::Config::new().bytes(["."]).compile_fds(messages)?;
    #[cfg(feature = "grpc")]
    tonic_prost_build::configure().compile_fds(protox::compile(["carillon/auth/v1/auth.proto"], ["."])?)?;
    Ok(())
}
