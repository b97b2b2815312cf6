# bash completion for echod-check; made by tests/support/completions.py
_echod_check() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    # readline splits words at "=".
    if [[ $word == = ]]; then
        word=
    elif [[ $before == = ]]; then
        before=${COMP_WORDS[COMP_CWORD-2]}
    fi
    case $before in
        --ca)
            COMPREPLY=($(compgen -f -- "$word"))
            return ;;
        --cert)
            COMPREPLY=($(compgen -f -- "$word"))
            return ;;
        --key)
            COMPREPLY=($(compgen -f -- "$word"))
            return ;;
        --tls-version)
            COMPREPLY=($(compgen -W '1.2 1.3' -- "$word"))
            return ;;
        --proxy-header)
            COMPREPLY=($(compgen -W 'v1 v2' -- "$word"))
            return ;;
        -t|--timeout|-s|--size|-c|--count|-i|--interval|--fingerprint|--servername|--alpn|--rate|--connections|--proxy-source)
            return ;;
    esac
    COMPREPLY=($(compgen -W '--quiet --json --tls --insecure --udp --ping --conformance --timeout --size --count --interval --ca --fingerprint --cert --key --servername --alpn --tls-version --rate --connections --proxy-header --proxy-source --help --version' -- "$word"))
}
complete -F _echod_check echod-check
