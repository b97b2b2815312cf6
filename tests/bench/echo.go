// An echo server in Go, for comparison: a goroutine and an io.Copy for each connection.
//
// It prints its port on 127.0.0.1 on the first line.  With a file of a certificate and its key, it
// speaks TLS.
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"os"
)

func main() {
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(port.Addr().(*net.TCPAddr).Port)
	if len(os.Args) > 1 {
		pair, err := tls.LoadX509KeyPair(os.Args[1], os.Args[1])
		if err != nil {
			log.Fatal(err)
		}
		port = tls.NewListener(port, &tls.Config{Certificates: []tls.Certificate{pair}})
	}
	for {
		connection, err := port.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer connection.Close()
			io.Copy(connection, connection)
		}()
	}
}
