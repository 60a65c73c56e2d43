fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = protox::compile(
        ["ratelimitd/v1/ratelimit.proto", "google/rpc/error_details.proto"],
        ["../../proto"],
    )?;
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names().include_file("api.rs");
    println!("cargo:rerun-if-changed=../../proto");
    Ok(tonic_prost_build::configure().build_server(false).compile_fds_with_config(files, config)?)
}
