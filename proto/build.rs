//! Compiles the internal messages. protox is pure Rust, so that no `protoc` is needed on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=carillon");
    let files = protox::compile(["carillon/link/v1/link.proto", "carillon/log/v1/record.proto"], ["."])?;
    prost_build::Config::new().bytes(["."]).compile_fds(files)?;
    Ok(())
}
