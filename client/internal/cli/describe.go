package cli

import (
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/image/eif"
)

// imageOutput has the form of nitro-cli describe-eif, without what stands in the
// metadata, which nobody vouches for.
type imageOutput struct {
	EifVersion         int
	Measurements       map[string]string
	IsSigned           bool
	SigningCertificate *signerOutput `json:",omitempty"`
	CheckCRC           bool
	SignatureCheck     *bool `json:",omitempty"`
}

type signerOutput struct {
	IssuerName map[string]string
	Algorithm  string
	NotBefore  string
	NotAfter   string
	Signature  string
}

func (a *app) eifDescribe() *cobra.Command {
	return &cobra.Command{
		Use:   "describe IMAGE",
		Short: "Print an image's measurements and who signed it",
		Long: `Reads and verifies the whole image and prints what it is measured as. A damaged image, or
one whose signature does not verify, is an error. With -o json the form is that of
nitro-cli describe-eif. Name and version in the metadata are not shown: no measurement and
no signature covers them.`,
		Example: `  cape eif describe cape-runtime.eif -o json | jq -r .Measurements.PCR0`,
		Args:    args(1, 1, "the image"),
		RunE: func(cmd *cobra.Command, given []string) error {
			image, err := a.readImage(cmd.Context(), given[0])
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(describe(image))
			}
			return a.print([]byte(imageText(image)))
		},
	}
}

// describe tells of an image that eif.Read verified.
func describe(image *eif.Image) imageOutput {
	out := imageOutput{EifVersion: 4, Measurements: image.Measurements.Map(), CheckCRC: true}
	if cert := image.Certificate; cert != nil {
		verified := true
		out.IsSigned, out.SignatureCheck = true, &verified
		out.SigningCertificate = &signerOutput{issuer(cert), algorithm(cert), opensslTime(cert.NotBefore), opensslTime(cert.NotAfter), octets(cert.Signature)}
	}
	return out
}

// issuer names the fields as OpenSSL does.
func issuer(cert *x509.Certificate) map[string]string {
	names := map[string]string{"2.5.4.3": "commonName", "2.5.4.5": "serialNumber", "2.5.4.6": "countryName", "2.5.4.7": "localityName",
		"2.5.4.8": "stateOrProvinceName", "2.5.4.10": "organizationName", "2.5.4.11": "organizationalUnitName", "1.2.840.113549.1.9.1": "emailAddress"}
	out := map[string]string{}
	for _, n := range cert.Issuer.Names {
		name := names[n.Type.String()]
		if name == "" {
			name = n.Type.String()
		}
		out[name] = fmt.Sprint(n.Value)
	}
	return out
}

func algorithm(cert *x509.Certificate) string {
	if hash, ok := strings.CutPrefix(cert.SignatureAlgorithm.String(), "ECDSA-"); ok {
		return "ecdsa-with-" + hash
	}
	return cert.SignatureAlgorithm.String()
}

func opensslTime(t time.Time) string { return t.UTC().Format("Jan _2 15:04:05 2006 GMT") }

// octets writes bytes as AA:BB:CC.
func octets(b []byte) string { return strings.ReplaceAll(fmt.Sprintf("% X", b), " ", ":") }

func imageText(image *eif.Image) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Command line  %s\nSize          %d\nRamdisks      %d\n", line(image.Cmdline), image.Size, image.Ramdisks())
	if image.Development() {
		b.WriteString("Development   this image is not for production\n")
	}
	if cert := image.Certificate; cert == nil {
		b.WriteString("Signed        no\n")
	} else {
		fmt.Fprintf(&b, "Signed by     %s, until %s\n", line(cert.Subject.String()), cert.NotAfter.UTC().Format(time.DateOnly))
	}
	return b.String() + measurementsText(image.Measurements.Map())
}
