package localkms

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Set by "make test": tests that install or download something run as well.
const fullTests = "CAPE_TEST_FULL"

// Versions that are installed for these tests.
const awsPackages = "awscli==1.46.3 boto3"

// awsTools returns the bin folder of a virtual environment with AWS's own
// command line and boto3, made once in the user's cache.
func awsTools(t *testing.T) string {
	t.Helper()
	if os.Getenv(fullTests) == "" {
		t.Skipf("installs awscli; set %s=1 to run it, as make test does", fullTests)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "cape-test", "awscli-1.46.3")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	bin, done := filepath.Join(dir, "venv", "bin"), filepath.Join(dir, "installed")
	if _, err := os.Stat(done); err == nil {
		return bin
	}
	python := os.Getenv("PYTHON")
	if python == "" {
		python = "python3"
	}
	run(t, nil, python, "-m", "venv", "--clear", filepath.Join(dir, "venv"))
	run(t, nil, filepath.Join(bin, "python"), append([]string{"-m", "pip", "install", "--quiet", "--disable-pip-version-check"}, strings.Fields(awsPackages)...)...)
	if err := os.WriteFile(done, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return bin
}

// run runs a program to its end and returns what it printed.
func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	out, errs, err := try(t, env, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, errs)
	}
	return out
}

func try(t *testing.T, env []string, name string, args ...string) (string, string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = env
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	return out.String(), errs.String(), err
}

// awsWorld is a server with what AWS's tools need to reach it.
type awsWorld struct {
	*world
	bin, ca string
	env     []string
}

func newAWSWorld(t *testing.T) *awsWorld {
	bin := awsTools(t)
	w := newWorld(t)
	a := &awsWorld{world: w, bin: bin, ca: filepath.Join(t.TempDir(), "ca.pem")}
	if err := os.WriteFile(a.ca, w.server.CertificatePEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	c := w.server.Credentials(adminRole)
	a.env = []string{
		"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=",
		"AWS_DEFAULT_REGION=" + testRegion, "AWS_CA_BUNDLE=" + a.ca, "AWS_MAX_ATTEMPTS=1",
		"AWS_ACCESS_KEY_ID=" + c.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + c.SecretAccessKey, "AWS_SESSION_TOKEN=" + c.Token,
	}
	return a
}

// aws runs one command of AWS's command line and reads its JSON.
func (a *awsWorld) aws(t *testing.T, v any, args ...string) {
	t.Helper()
	out := run(t, a.env, filepath.Join(a.bin, "aws"), append([]string{"--endpoint-url", a.url, "--output", "json"}, args...)...)
	if v == nil {
		return
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		t.Fatalf("aws %v printed %q: %v", args, out, err)
	}
}

// awsFails wants an error with the code.
func (a *awsWorld) awsFails(t *testing.T, code string, args ...string) {
	t.Helper()
	_, errs, err := try(t, a.env, filepath.Join(a.bin, "aws"), append([]string{"--endpoint-url", a.url}, args...)...)
	if err == nil || !strings.Contains(errs, "("+code+")") {
		t.Errorf("aws %v: %v, %s; want %s", args, err, errs, code)
	}
}

func TestAWSCommandLine(t *testing.T) {
	a := newAWSWorld(t)
	var who struct{ Arn, Account string }
	a.aws(t, &who, "sts", "get-caller-identity")
	if who.Arn != "arn:aws:sts::111122223333:assumed-role/admin/localkms" || who.Account != testAccount {
		t.Errorf("identity: %+v", who)
	}
	var made struct {
		KeyMetadata struct {
			Arn, KeyId, Origin, KeyState string
			MultiRegion                  bool
		}
	}
	a.aws(t, &made, "kms", "create-key", "--description", "from the command line", "--tags", "TagKey=a,TagValue=b")
	key := made.KeyMetadata.Arn
	if made.KeyMetadata.Origin != originKMS || made.KeyMetadata.KeyState != stateEnabled || made.KeyMetadata.MultiRegion {
		t.Errorf("key: %+v", made)
	}
	a.aws(t, nil, "kms", "create-alias", "--alias-name", "alias/cli", "--target-key-id", key)
	a.aws(t, &made, "kms", "describe-key", "--key-id", "alias/cli")
	if made.KeyMetadata.Arn != key {
		t.Errorf("described %s", made.KeyMetadata.Arn)
	}
	var aliases struct{ Aliases []struct{ AliasName string } }
	a.aws(t, &aliases, "kms", "list-aliases")
	var keys struct{ Keys []struct{ KeyArn string } }
	a.aws(t, &keys, "kms", "list-keys")
	if len(aliases.Aliases) != 1 || len(keys.Keys) != 1 || keys.Keys[0].KeyArn != key {
		t.Errorf("aliases %+v, keys %+v", aliases, keys)
	}
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("from a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	var sealed struct{ CiphertextBlob string }
	a.aws(t, &sealed, "kms", "encrypt", "--key-id", "alias/cli", "--plaintext", "fileb://"+plain, "--encryption-context", "a=b")
	blob := filepath.Join(t.TempDir(), "blob")
	raw, err := base64.StdEncoding.DecodeString(sealed.CiphertextBlob)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(blob, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	var opened struct{ Plaintext, KeyId string }
	a.aws(t, &opened, "kms", "decrypt", "--ciphertext-blob", "fileb://"+blob, "--encryption-context", "a=b")
	if text, err := base64.StdEncoding.DecodeString(opened.Plaintext); err != nil || string(text) != "from a file" || opened.KeyId != key {
		t.Errorf("decrypted: %+v, %v", opened, err)
	}
	a.awsFails(t, codeInvalidCiphertext, "kms", "decrypt", "--ciphertext-blob", "fileb://"+blob)
	a.aws(t, nil, "kms", "generate-data-key-pair", "--key-id", key, "--key-pair-spec", "RSA_2048")
	var policy struct{ Policy string }
	a.aws(t, &policy, "kms", "get-key-policy", "--key-id", key)
	if !json.Valid([]byte(policy.Policy)) {
		t.Errorf("policy: %q", policy.Policy)
	}
	a.aws(t, nil, "kms", "put-key-policy", "--key-id", key, "--policy-name", "default", "--policy",
		policyOf(allow(rootARN, "kms:*"), `{"Effect":"Deny","Principal":"*","Action":"kms:Encrypt","Resource":"*"}`))
	a.awsFails(t, codeAccessDenied, "kms", "encrypt", "--key-id", key, "--plaintext", "fileb://"+plain)
	a.aws(t, nil, "kms", "list-grants", "--key-id", key)
	a.awsFails(t, codeNotFound, "kms", "describe-key", "--key-id", "alias/none")
	a.aws(t, nil, "kms", "schedule-key-deletion", "--key-id", key, "--pending-window-in-days", "7")
	a.awsFails(t, codeInvalidState, "kms", "enable-key", "--key-id", key)
}

func TestBoto3(t *testing.T) {
	a := newAWSWorld(t)
	document := filepath.Join(t.TempDir(), "document")
	if err := os.WriteFile(document, a.document(), 0o600); err != nil {
		t.Fatal(err)
	}
	attested := a.newKey(attestedPolicy(enclavePCRs()))
	out := run(t, a.env, filepath.Join(a.bin, "python"), "testdata/boto3_check.py", a.url, a.ca, document, attested, testRegion)
	var got struct {
		ARN           string `json:"arn"`
		RoundTrip     bool   `json:"round_trip"`
		Listed        bool   `json:"listed"`
		Typed         bool   `json:"typed"`
		WrongContext  string `json:"wrong_context"`
		UnknownKey    string `json:"unknown_key"`
		Sealed        string `json:"sealed"`
		Plain         string `json:"plain"`
		NoRecipient   string `json:"no_recipient"`
		EncryptDenied string `json:"encrypt_denied"`
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	sealed, err := hex.DecodeString(got.Sealed)
	if err != nil {
		t.Fatal(err)
	}
	if secret := open(t, sealed); len(secret) != 32 || got.Plain != "" {
		t.Errorf("sealed key of %d bytes, plain %q", len(secret), got.Plain)
	}
	if !got.RoundTrip || !got.Listed || !got.Typed || got.ARN != "arn:aws:sts::111122223333:assumed-role/admin/localkms" {
		t.Errorf("got %+v", got)
	}
	if got.WrongContext != codeInvalidCiphertext || got.UnknownKey != codeNotFound || got.NoRecipient != codeAccessDenied || got.EncryptDenied != codeAccessDenied {
		t.Errorf("errors: %+v", got)
	}
}
