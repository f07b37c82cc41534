def cape_handler(data):
    return data
