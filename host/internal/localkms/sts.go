package localkms

import (
	"encoding/xml"
	"net/http"
	"net/url"
)

const (
	stsVersion   = "2011-06-15"
	stsNamespace = "https://sts.amazonaws.com/doc/2011-06-15/"
	xmlType      = "text/xml"
)

type identityResponse struct {
	XMLName   xml.Name `xml:"GetCallerIdentityResponse"`
	Namespace string   `xml:"xmlns,attr"`
	ARN       string   `xml:"GetCallerIdentityResult>Arn"`
	UserID    string   `xml:"GetCallerIdentityResult>UserId"`
	Account   string   `xml:"GetCallerIdentityResult>Account"`
	RequestID string   `xml:"ResponseMetadata>RequestId"`
}

type stsError struct {
	XMLName   xml.Name `xml:"ErrorResponse"`
	Namespace string   `xml:"xmlns,attr"`
	Type      string   `xml:"Error>Type"`
	Code      string   `xml:"Error>Code"`
	Message   string   `xml:"Error>Message"`
	RequestID string   `xml:"RequestId"`
}

// serveSTS answers the query protocol. Its one operation needs no permission,
// as at AWS.
func (s *Server) serveSTS(w http.ResponseWriter, r *http.Request, c *call, body []byte) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		s.answerError(w, r, c, fail(codeSerialization, "the request body is not a form"))
		return
	}
	if form.Get("Action") != c.operation || form.Get("Version") != stsVersion {
		c.operation = "sts"
		s.answerError(w, r, c, fail(codeUnknownOperation, "of STS there is only GetCallerIdentity, version %s", stsVersion))
		return
	}
	out, err := xml.Marshal(identityResponse{
		Namespace: stsNamespace,
		ARN:       c.who.identity(),
		UserID:    c.who.userID,
		Account:   c.who.Account,
		RequestID: newKeyID(false),
	})
	if err != nil {
		s.answerError(w, r, c, internal(err))
		return
	}
	s.answer(w, http.StatusOK, xmlType, out)
	s.record(c, nil)
}

// answerSTSError uses the codes that STS has for the same things.
func (s *Server) answerSTSError(w http.ResponseWriter, e *apiError) {
	code, status := e.code, e.status()
	switch e.code {
	case codeMissingToken:
		code, status = "MissingAuthenticationToken", http.StatusForbidden
	case codeIncompleteSig:
		code = "IncompleteSignature"
	case codeInvalidSignature:
		code, status = "SignatureDoesNotMatch", http.StatusForbidden
	case codeUnrecognized:
		code, status = "InvalidClientTokenId", http.StatusForbidden
	case codeExpiredToken:
		code, status = "ExpiredToken", http.StatusForbidden
	case codeUnknownOperation:
		code = "InvalidAction"
	case codeThrottling:
		code = "Throttling"
	}
	kind := "Sender"
	if status >= http.StatusInternalServerError {
		kind = "Receiver"
	}
	out, err := xml.Marshal(stsError{Namespace: stsNamespace, Type: kind, Code: code, Message: e.message, RequestID: newKeyID(false)})
	if err != nil { // strings always encode
		out = nil
	}
	s.answer(w, status, xmlType, out)
}
