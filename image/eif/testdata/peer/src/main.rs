//! AWS's own library, for comparing: reads an image, or builds one.
use aws_nitro_enclaves_image_format::defs::{EifBuildInfo, EifIdentityInfo};
use aws_nitro_enclaves_image_format::utils::eif_reader::EifReader;
use aws_nitro_enclaves_image_format::utils::{EifBuilder, PcrSignatureChecker};
use sha2::{Digest, Sha384};
use std::fs::OpenOptions;
use std::path::Path;

fn describe(path: &str) -> Result<(), String> {
    let mut reader = EifReader::from_eif(path.to_string())?;
    let measurements = reader.get_measurements()?;
    let signed = reader.signature_section.is_some();
    let mut verified = false;
    if signed {
        reader.get_certificate_info(measurements.clone())?;
        PcrSignatureChecker::from_eif(path)?.verify()?;
        verified = reader.sign_check == Some(true);
    }
    println!(
        "{}",
        serde_json::json!({"Measurements": measurements, "CheckCRC": reader.check_crc(), "IsSigned": signed,
            "SignatureCheck": verified, "Metadata": reader.get_metadata().is_some()})
    );
    Ok(())
}

fn build(out: &str, kernel: &str, cmdline: &str, ramdisks: &[String]) {
    let info = EifIdentityInfo {
        img_name: "x".to_string(),
        img_version: "1".to_string(),
        build_info: EifBuildInfo {
            build_time: String::new(),
            build_tool: String::new(),
            build_tool_version: String::new(),
            img_os: String::new(),
            img_kernel: String::new(),
        },
        docker_info: serde_json::json!({}),
        custom_info: serde_json::json!({}),
    };
    let mut builder = EifBuilder::new(Path::new(kernel), cmdline.to_string(), None, Sha384::new(), 0, info);
    for r in ramdisks {
        builder.add_ramdisk(Path::new(r));
    }
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(out).unwrap();
    let measurements = builder.write_to(&mut file);
    println!("{}", serde_json::json!({"Measurements": measurements}));
}

fn main() -> Result<(), String> {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("describe") if args.len() == 3 => describe(&args[2]),
        Some("build") if args.len() > 5 => {
            build(&args[2], &args[3], &args[4], &args[5..]);
            Ok(())
        }
        _ => Err("eif-peer describe IMAGE | build OUT KERNEL CMDLINE RAMDISK...".to_string()),
    }
}
