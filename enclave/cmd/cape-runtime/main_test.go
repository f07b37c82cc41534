package main

import (
	"errors"
	"testing"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/machine"
)

func TestProductionTakesNoSettings(t *testing.T) {
	if _, err := endpoints(&wire.DevSettings{}); !errors.Is(err, errDevelopment) {
		t.Errorf("development settings: %v", err)
	}
	e, err := endpoints(nil)
	if err != nil {
		t.Fatal(err)
	}
	if e.KMS != "" || e.STS != "" || e.Region != "" || e.AWS == nil || e.Issuers == nil {
		t.Error("endpoints must be those of the key's ARN, under Amazon's roots")
	}
	if p := parts(); p.Degraded || p.BirthRoots != nil {
		t.Error("production goes without no layer, and believes AWS's root alone")
	}
}

func TestProductionMachine(t *testing.T) {
	m := pid1()
	if m.Entropy != machine.NSMEntropy || m.Heartbeat == nil || m.Stderr || len(m.Args) != 1 {
		t.Errorf("%+v", m)
	}
}
