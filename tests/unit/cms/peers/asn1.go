// Reads signed orders with Go's encoding/asn1: go run asn1.go SIGNED.p7m...
// Prints, for each file, the object identifiers of the signed attributes, or "none".
package main

import (
	"encoding/asn1"
	"fmt"
	"os"
	"sort"
	"strings"
)

type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content signedData `asn1:"explicit,tag:0"`
}

type signedData struct {
	Version      int
	Digests      []algorithm `asn1:"set"`
	Encapsulated struct {
		Type    asn1.ObjectIdentifier
		Content []byte `asn1:"explicit,tag:0"`
	}
	Certificates asn1.RawValue `asn1:"tag:0"`
	Signers      []signer      `asn1:"set"`
}

type algorithm struct {
	Name       asn1.ObjectIdentifier
	Parameters asn1.RawValue `asn1:"optional"`
}

type attribute struct {
	Type   asn1.ObjectIdentifier
	Values asn1.RawValue `asn1:"set"`
}

type signer struct {
	Version    int
	ID         asn1.RawValue
	Digest     algorithm
	Attributes []attribute `asn1:"optional,set,tag:0"`
	Algorithm  algorithm
	Signature  []byte
}

func main() {
	for _, file := range os.Args[1:] {
		data, err := os.ReadFile(file)
		if err != nil {
			panic(err)
		}
		var info contentInfo
		rest, err := asn1.Unmarshal(data, &info)
		if err != nil || len(rest) != 0 || len(info.Content.Signers) != 1 {
			panic(fmt.Sprint(file, ": ", err))
		}
		names := []string{}
		for _, one := range info.Content.Signers[0].Attributes {
			names = append(names, one.Type.String())
		}
		sort.Strings(names)
		if len(names) == 0 {
			names = []string{"none"}
		}
		fmt.Println(strings.Join(names, " "))
	}
}
