package cli

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/image/eif"
)

// maxPEM bounds a file with a key or a certificate.
const maxPEM = 64 << 10

var (
	// errImage: an image is sound, and not the one that was expected.
	errImage = errors.New("not the expected image")
	// errPEM: a file holds no key or no certificate.
	errPEM = errors.New("not a PEM file of the needed kind")
	// errDevelopment: an image for development was to be signed as one for production.
	errDevelopment = errors.New("this is a development image")
)

func (a *app) eifCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "eif",
		Short: "Build, look at, sign and verify enclave images",
		Long: `Enclave image files (EIF) are what AWS Nitro Enclaves boot. Their measurements, PCR0 to
PCR2, are what attestation documents tell; PCR8 is the certificate of who signed the image.`,
		Args: args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.eifBuild(), a.eifDescribe(), a.eifSign(), a.eifVerify())
	return cmd
}

func (a *app) eifBuild() *cobra.Command {
	var kernel, cmdline, arch string
	var ramdisks []string
	var parts eif.Parts
	cmd := &cobra.Command{
		Use:   "build IMAGE",
		Short: "Build an image from a kernel, a command line and ramdisks",
		Long: `Builds an unsigned image. The same parts give the same bytes. The first ramdisk is in PCR1,
with kernel and command line; the others are in PCR2.`,
		Example: `  cape eif build --kernel bzImage --cmdline 'reboot=k panic=30 pci=off' \
    --ramdisk base.cpio.gz --ramdisk app.cpio.gz app.eif`,
		Args: args(1, 1, "the image to write"),
		RunE: func(cmd *cobra.Command, given []string) error {
			if kernel == "" || cmdline == "" || len(ramdisks) == 0 {
				return fmt.Errorf("%w: --kernel, --cmdline and a --ramdisk are needed", errUsage)
			}
			if arch != "x86_64" && arch != "aarch64" {
				return fmt.Errorf("%w: --arch is x86_64 or aarch64, not %.40q", errUsage, arch)
			}
			parts.Cmdline, parts.ARM64 = cmdline, arch == "aarch64"
			return a.build(cmd.Context(), given[0], parts, kernel, ramdisks)
		},
	}
	f := cmd.Flags()
	f.StringVar(&kernel, "kernel", "", "kernel `file`: bzImage or Image")
	f.StringVar(&cmdline, "cmdline", "", "the kernel's command `line`")
	f.StringArrayVar(&ramdisks, "ramdisk", nil, "ramdisk `file`; several are joined in this order")
	f.StringVar(&arch, "arch", "x86_64", "x86_64 or aarch64")
	f.StringVar(&parts.Name, "name", "", "name in the metadata, which nothing measures")
	f.StringVar(&parts.Version, "image-version", "", "version in the metadata")
	a.complete(cmd, "arch", "x86_64", "aarch64")
	return cmd
}

func (a *app) build(ctx context.Context, out string, parts eif.Parts, kernel string, ramdisks []string) error {
	files := make([]eif.Part, 0, 1+len(ramdisks))
	for _, name := range append([]string{kernel}, ramdisks...) {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		files = append(files, eif.Part{Content: f, Size: info.Size()})
	}
	parts.Kernel, parts.Ramdisks = files[0], files[1:]
	var m eif.Measurements
	err := replaceFile(out, func(f *os.File) (err error) {
		m, err = eif.Write(ctx, f, parts)
		return err
	})
	if err != nil {
		return err
	}
	return a.showMeasurements(m.Map())
}

// replaceFile writes a file beside path and gives it that name when write succeeded.
func replaceFile(path string, write func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	err = write(f)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func (a *app) eifSign() *cobra.Command {
	var key, certificate, out string
	var development bool
	cmd := &cobra.Command{
		Use:   "sign IMAGE",
		Short: "Sign an image, which gives it a PCR8",
		Long: `Signs PCR0 with a P-384 key, in the place of an earlier signature. PCR8 becomes the hash of the
certificate: who holds the key decides which images open what is stored under its PCR8.
Images for development, by their command line, must not get a certificate that production
trusts; --development says that this is none.`,
		Example: `  openssl ecparam -name secp384r1 -genkey -noout -out key.pem
  openssl req -new -x509 -key key.pem -sha384 -days 730 -subj /CN=cape -out cert.pem
  cape eif sign --key key.pem --certificate cert.pem cape-runtime.eif`,
		Args: args(1, 1, "the image"),
		RunE: func(cmd *cobra.Command, given []string) error {
			if key == "" || certificate == "" {
				return fmt.Errorf("%w: --key and --certificate are needed", errUsage)
			}
			s, err := readSigner(key, certificate)
			if err != nil {
				return err
			}
			if out == "" {
				out = given[0]
			}
			return a.sign(cmd.Context(), given[0], out, s, development)
		},
	}
	f := cmd.Flags()
	f.StringVar(&key, "key", "", "PEM `file` of the P-384 private key")
	f.StringVar(&certificate, "certificate", "", "PEM `file` of its certificate")
	f.StringVar(&out, "out", "", "`file` to write (default: the image itself)")
	f.BoolVar(&development, "development", false, "the certificate is for development images")
	return cmd
}

func (a *app) sign(ctx context.Context, in, out string, s eif.Signer, development bool) error {
	if now := a.Now(); now.Before(s.Certificate.NotBefore) || now.After(s.Certificate.NotAfter) {
		return fmt.Errorf("%w: the certificate is valid from %s to %s", eif.ErrSigner, s.Certificate.NotBefore, s.Certificate.NotAfter)
	}
	f, err := os.Open(in)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var image *eif.Image
	err = replaceFile(out, func(w *os.File) (err error) {
		image, err = eif.Sign(ctx, w, f, info.Size(), s)
		if err == nil && image.Development() != development {
			if development {
				return fmt.Errorf("%w: this is no development image: sign it without --development, if the certificate is for production", errUsage)
			}
			return errDevelopment
		}
		return err
	})
	if err != nil {
		return err
	}
	return a.showMeasurements(image.Measurements.Map())
}

func readSigner(key, certificate string) (eif.Signer, error) {
	var s eif.Signer
	block, err := readPEM(key, "EC PRIVATE KEY", "PRIVATE KEY")
	if err != nil {
		return s, err
	}
	if block.Type == "EC PRIVATE KEY" {
		s.Key, err = x509.ParseECPrivateKey(block.Bytes)
	} else {
		var any any
		if any, err = x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			s.Key, _ = any.(crypto.Signer)
		}
	}
	if err != nil || s.Key == nil {
		return s, fmt.Errorf("%w: %s holds no private key for signing", errPEM, key)
	}
	s.Certificate, err = readCertificate(certificate)
	return s, err
}

func readCertificate(name string) (*x509.Certificate, error) {
	block, err := readPEM(name, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errPEM, name, err)
	}
	return cert, nil
}

// readPEM returns the file's first block of one of the types; openssl writes parameters before a key.
func readPEM(name string, types ...string) (*pem.Block, error) {
	data, err := readLimited(name, maxPEM)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if slices.Contains(types, block.Type) {
			return block, nil
		}
	}
	return nil, fmt.Errorf("%w: %s holds no %s", errPEM, name, strings.Join(types, " or "))
}

func (a *app) eifVerify() *cobra.Command {
	var certificate string
	var pcrs []string
	cmd := &cobra.Command{
		Use:   "verify IMAGE",
		Short: "Tell whether an image is the expected one",
		Long: `Verifies the image's form, checksum and signature, and compares it with what is expected: the
publisher's certificate, measurements, or both. The exit status is 1 if anything differs.`,
		Example: `  cape eif verify --certificate publisher.pem cape-runtime.eif
  cape eif verify --pcr 0:5f2c… cape-runtime.eif`,
		Args: args(1, 1, "the image"),
		RunE: func(cmd *cobra.Command, given []string) error {
			if certificate == "" && len(pcrs) == 0 {
				return fmt.Errorf("%w: say what is expected, with --certificate or --pcr", errUsage)
			}
			want, err := trust.ParsePCRs(pcrs)
			if err != nil {
				return err
			}
			image, err := a.readImage(cmd.Context(), given[0])
			if err != nil {
				return err
			}
			if err := a.compare(image, certificate, want); err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(describe(image))
			}
			return a.print([]byte("The image is the expected one.\n"))
		},
	}
	cmd.Flags().StringVar(&certificate, "certificate", "", "PEM `file` of the certificate that must have signed it")
	a.pcrFlag(cmd, &pcrs)
	return cmd
}

func (a *app) compare(image *eif.Image, certificate string, want map[int][]nitro.PCR) error {
	got := image.Measurements.PCRs()
	for i, values := range want {
		pcr, ok := got[i]
		switch {
		case !ok:
			return fmt.Errorf("%w: it has no PCR%d", errImage, i)
		case !slices.Contains(values, pcr):
			return fmt.Errorf("%w: PCR%d is %s", errImage, i, pcr)
		}
	}
	if certificate == "" {
		return nil
	}
	cert, err := readCertificate(certificate)
	switch now := a.Now(); {
	case err != nil:
		return err
	case image.Certificate == nil:
		return fmt.Errorf("%w: it is not signed", errImage)
	case !image.Certificate.Equal(cert):
		return fmt.Errorf("%w: it is signed by another certificate, PCR8 is %s", errImage, image.Measurements.PCR8)
	case now.Before(cert.NotBefore) || now.After(cert.NotAfter):
		return fmt.Errorf("%w: its certificate is valid from %s to %s", errImage, cert.NotBefore, cert.NotAfter)
	}
	return nil
}

// readImage reads and verifies an image.
func (a *app) readImage(ctx context.Context, name string) (*eif.Image, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return eif.Read(ctx, f, nil)
}
