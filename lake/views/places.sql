-- Where rows lie, for the tasks that read them in bulk. In braces: a table's committed files, each row with its
-- filename and file_row_number.

-- Where one look model's embeddings of the live pictures lie. As in embeddings_of, the first of a content counts.
CREATE MACRO located_embeddings_of(look) AS TABLE
    SELECT images.image_key, images.product_id, stored.*
    FROM (SELECT sha256, filename AS url, file_row_number AS row
          FROM {embeddings} WHERE look_version = look
          QUALIFY row_number() OVER (PARTITION BY sha256 ORDER BY embedded_at, filename, file_row_number) = 1) AS stored
    JOIN images USING (sha256);

-- Where the pixels of the live pictures lie.
CREATE VIEW stored_pictures AS
    SELECT image_key, stored.sha256, filename AS url, file_row_number AS row
    FROM (SELECT image_key, sha256, ingested_at, filename, file_row_number FROM {images} WHERE status = 'ok') AS stored
    JOIN images USING (image_key, ingested_at);

-- Every picture that was ever decoded, as it was last: a label stays of use when the shop drops the product.
CREATE VIEW pictures_ever AS
    SELECT stored.image_key, stored.sha256, stored.product_id, stored.pixels
    FROM {images} AS stored
    JOIN (SELECT image_key, max(ingested_at) AS ingested_at FROM image_history WHERE status = 'ok'
          GROUP BY image_key) USING (image_key, ingested_at);
