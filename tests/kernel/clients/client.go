// A TLS client: client HOST:PORT NAME. Go offers a post-quantum key share, so its hello takes more than one segment.
package main

import (
	"crypto/tls"
	"log"
	"os"
)

func main() {
	config := &tls.Config{ServerName: os.Args[2], InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}}
	connection, err := tls.Dial("tcp", os.Args[1], config)
	if err != nil {
		log.Fatal(err)
	}
	connection.Close()
}
