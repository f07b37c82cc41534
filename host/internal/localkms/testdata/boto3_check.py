"""Uses the local KMS as any boto3 program would. Prints one JSON object.

Arguments: endpoint, CA file, file with an attestation document, attested key, region.
"""

import json
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError


def code(call, **arguments):
    """Returns the error code of a call, or an empty string when it succeeds."""
    try:
        call(**arguments)
    except ClientError as e:
        return e.response["Error"]["Code"]
    return ""


def main():
    endpoint, ca, document_file, attested, region = sys.argv[1:]
    options = dict(
        endpoint_url=endpoint,
        verify=ca,
        region_name=region,
        config=Config(retries={"max_attempts": 1}),
    )
    kms = boto3.client("kms", **options)
    sts = boto3.client("sts", **options)
    out = {"arn": sts.get_caller_identity()["Arn"]}

    key = kms.create_key(Description="boto3")["KeyMetadata"]["Arn"]
    context = {"purpose": "test"}
    data = kms.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=context)
    back = kms.decrypt(CiphertextBlob=data["CiphertextBlob"], EncryptionContext=context)
    out["round_trip"] = back["Plaintext"] == data["Plaintext"] and back["KeyId"] == key
    out["listed"] = key in [
        k["KeyArn"] for page in kms.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 1}) for k in page["Keys"]
    ]
    out["wrong_context"] = code(kms.decrypt, CiphertextBlob=data["CiphertextBlob"])
    out["unknown_key"] = code(kms.describe_key, KeyId="11111111-1111-1111-1111-111111111111")
    try:
        kms.describe_key(KeyId="alias/none")
    except kms.exceptions.NotFoundException:
        out["typed"] = True

    with open(document_file, "rb") as f:
        recipient = {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": f.read()}
    sealed = kms.generate_data_key(KeyId=attested, KeySpec="AES_256", Recipient=recipient)
    out["sealed"] = sealed["CiphertextForRecipient"].hex()
    out["plain"] = sealed.get("Plaintext", b"").hex()
    out["no_recipient"] = code(kms.generate_data_key, KeyId=attested, KeySpec="AES_256")
    out["encrypt_denied"] = code(kms.encrypt, KeyId=attested, Plaintext=b"x")
    print(json.dumps(out))


main()
